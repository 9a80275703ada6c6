"""What a run leaves behind: its folder, its results, its loggers' files, and stages that runs share."""
