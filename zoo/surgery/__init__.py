"""Changes to a network in place: rewrite its convolutions, fold its BatchNorms."""
