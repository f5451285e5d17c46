"""Backbones: families and their variants, compound scaling, builders of any depth and width, the stem."""
