"""Network surgery in place: rewrites convolutions and folds BatchNorms."""
