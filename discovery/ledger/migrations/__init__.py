"""Alembic's folder: `env.py` runs the migrations, `versions/` holds them. Imported by Alembic alone."""
