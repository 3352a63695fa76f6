"""One peer's vector store at N rows: median and worst seconds of durable inserts, and median of a search for ten.

python memory_peer.py '{"store": "mem0", "rows": 100000, "folder": "..."}'    in a Python that has the peer; prints JSON
"""

import json
import sys
import time
from pathlib import Path

import numpy

WIDTH, ADDS, SEARCHES = 384, 20, 20


def mem0(folder: Path, vectors):
    from mem0.vector_stores.faiss import FAISS

    store = FAISS("bench", path=str(folder / "mem0"), embedding_model_dims=WIDTH, distance_strategy="inner_product")
    numbers = range(len(vectors))
    store.insert(vectors.tolist(), [{"data": f"q{n}"} for n in numbers], [str(n) for n in numbers])

    def add(number, vector):
        store.insert([vector.tolist()], [{"data": f"q{number}"}], [f"more{number}"])

    return add, lambda vector: store.search("", vector.tolist(), 10)


def langchain(folder: Path, vectors):
    from langchain_community.vectorstores import FAISS

    class Embedder:
        def __call__(self, text):
            return []

    pairs = [(f"q{number}", vector) for number, vector in enumerate(vectors.tolist())]
    store = FAISS.from_embeddings(pairs, Embedder())

    def add(number, vector):
        store.add_embeddings([(f"more{number}", vector.tolist())])
        store.save_local(str(folder / "langchain"))  # what makes it last

    return add, lambda vector: store.similarity_search_with_score_by_vector(vector.tolist(), k=10)


def chroma(folder: Path, vectors):
    import chromadb

    collection = chromadb.PersistentClient(str(folder / "chroma")).create_collection("bench")
    for start in range(0, len(vectors), 5000):
        some = vectors[start : start + 5000]
        ids = [str(number) for number in range(start, start + len(some))]
        collection.add(ids, embeddings=some, documents=[f"q{id}" for id in ids])

    def add(number, vector):
        collection.add([f"more{number}"], embeddings=[vector.tolist()], documents=[f"q{number}"])

    return add, lambda vector: collection.query(query_embeddings=[vector.tolist()], n_results=10)


def sqlite_vec(folder: Path, vectors):
    import sqlite_vec

    try:  # many a Python's own sqlite3 loads no extensions
        import pysqlite3 as sqlite3
    except ImportError:
        import sqlite3
    connection = sqlite3.connect(folder / "vec.db", isolation_level=None)
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"CREATE VIRTUAL TABLE bench USING vec0(embedding float[{WIDTH}], +query text)")
    connection.execute("BEGIN")
    insert = "INSERT INTO bench (embedding, query) VALUES (?, ?)"
    connection.executemany(insert, ((vector.tobytes(), f"q{number}") for number, vector in enumerate(vectors)))
    connection.execute("COMMIT")
    search = "SELECT rowid, distance FROM bench WHERE embedding MATCH ? ORDER BY distance LIMIT 10"

    def add(number, vector):
        connection.execute(insert, (vector.tobytes(), f"more{number}"))

    return add, lambda vector: connection.execute(search, (vector.tobytes(),)).fetchall()


def timed(call, arguments) -> list[float]:
    seconds = []
    for given in arguments:
        start = time.perf_counter()
        call(*given)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)


def main() -> None:
    asked = json.loads(sys.argv[1])
    random = numpy.random.default_rng(0)
    vectors = random.normal(size=(asked["rows"] + ADDS, WIDTH)).astype("float32")
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    add, search = globals()[asked["store"]](Path(asked["folder"]), vectors[: asked["rows"]])
    adds = timed(add, list(enumerate(vectors[asked["rows"] :])))
    searches = timed(search, [(vector,) for vector in vectors[:SEARCHES]])
    print(json.dumps({"add": adds[len(adds) // 2], "worst": adds[-1], "search": searches[len(searches) // 2]}))


if __name__ == "__main__":
    main()
