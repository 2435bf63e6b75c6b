"""The intermediate representation: networks, nodes, linear operators."""
