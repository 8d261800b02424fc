"""What runs: a flow a stage, the pipeline that chains them, and the commands."""
