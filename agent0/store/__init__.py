"""What holds the memory: a database, which is the truth, and an index of embeddings, which is derived from it.

SQLite and files (database.py, index.py, files.py), or PostgreSQL with pgvector (postgres.py); both offer the same.
"""

from collections.abc import Callable
from pathlib import Path

from agent0.settings import get_settings
from agent0.store.database import Database
from agent0.store.index import Index


def open_store(path: Path | str | None, load_embedder: Callable[[], Callable]) -> tuple[Database, Index]:
    """Open the memory in that folder; without one, that of MEMORY_URL, else that of MEMORY_PATH.

    Raises CouncilError where it cannot be used.
    """
    settings = get_settings()
    if path is None and settings.memory_url:
        from agent0.store.postgres import PostgresDatabase, PostgresIndex

        shared = PostgresDatabase(settings.memory_url.get_secret_value())
        return shared, PostgresIndex(shared, load_embedder)
    folder = Path(path or settings.memory_path).resolve()
    database = Database(folder)
    return database, Index(folder, database, load_embedder)
