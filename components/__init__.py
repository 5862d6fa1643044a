"""KFP container components, one per stage. No logic: ``compose-rl component`` does the work in the image."""
