"""Cohorts: any number of patients, explained into Parquet files."""
