"""Pictures of networks: what is drawn, and how, as text, SVG and for Graphviz."""
