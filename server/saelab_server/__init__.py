"""The service: a FastAPI application over a folder of runs, and the dashboard."""
