"""One job -> weights, history and test predictions, under the frozen protocol."""
