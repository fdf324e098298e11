"""From files to federations: sources, partitions, the federated data set."""
