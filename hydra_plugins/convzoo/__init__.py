"""What convzoo adds to Hydra. Imported at every start of every Hydra application, so it imports little."""
