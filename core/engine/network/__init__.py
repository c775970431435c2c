"""Networks and endpoints: state and a driver's plan become a request to the reconciler."""
