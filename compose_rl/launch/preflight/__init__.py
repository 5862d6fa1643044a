"""Whether a cluster, a storage and Kubeflow Pipelines have what runs will need, looked at before any run."""
