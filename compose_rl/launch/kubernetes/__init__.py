"""Jobs on a Kubernetes cluster: what they are made of, how they are followed, who holds them."""
