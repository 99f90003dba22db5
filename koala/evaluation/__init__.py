"""How good the colours are: metrics, protocols, scores, comparisons. Nothing here trains."""
