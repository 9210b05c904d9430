from pathlib import Path


def write_page(run: Path) -> None:
    """stub"""
