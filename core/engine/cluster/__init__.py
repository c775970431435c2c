"""What the hosts of a cluster know together: nodes, networks, addresses, endpoints; kept by etcd, or a file."""
