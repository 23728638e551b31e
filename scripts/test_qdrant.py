#!/usr/bin/env python3
"""The tests of an index in Qdrant against Qdrant's own engine and messages.

    test_qdrant.py

The engine is `qdrant-edge`, one shard for each collection, in this process; the messages are those of
`qdrant-client`. It says that there are two copies, and has one. New points are put into the graph every two
seconds, where searches find them by int8 and score them once more. `cargo test` runs with `QDRANT_URLS`, or
another command that is given. Needs the Python of `scripts/venv.sh qdrant scripts/qdrant-requirements.txt`.
Ends with the exit code of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as messages
from testing import ROOT

RELEASE = "1.20.0"
LINKED_EVERY_SECONDS = 2.0


def number_of(point: messages.PointId) -> int | str:
    return point.uuid or point.num


def id_of(number: object) -> messages.PointId:
    return messages.PointId(num=number) if isinstance(number, int) else messages.PointId(uuid=str(number))


def payload_of(payload: dict | None) -> dict[str, messages.Value]:
    one = {int: "integer_value", str: "string_value"}
    return {key: messages.Value(**{one[type(value)]: value}) for key, value in (payload or {}).items()}


def filter_of(given: messages.Filter) -> edge.Filter:
    def condition(one: messages.Condition) -> edge.FieldCondition | edge.HasIdCondition:
        if one.HasField("has_id"):
            return edge.HasIdCondition({number_of(point) for point in one.has_id.has_id})
        return edge.FieldCondition(one.field.key, range=edge.RangeFloat(gt=one.field.range.gt))

    return edge.Filter(
        must=[condition(one) for one in given.must], must_not=[condition(one) for one in given.must_not]
    )


class Shards:
    """The collections, each one shard."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, threading.Lock()
        self.changed = 0.0
        self.kept: dict[str, tuple[messages.CreateCollection, edge.EdgeShard]] = {}

    def create(self, asked: messages.CreateCollection) -> None:
        vectors, hnsw = asked.vectors_config.params, asked.hnsw_config
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(vectors.size, edge.Distance.Dot, on_disk=vectors.on_disk),
            hnsw_config=edge.HnswIndexConfig(hnsw.m, hnsw.ef_construct, full_scan_threshold=1),
            quantization_config=edge.ScalarQuantizationConfig(edge.ScalarType.Int8, always_ram=True),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1),
        )
        path = self.folder / asked.collection_name
        path.mkdir()
        with self.lock:
            self.kept[asked.collection_name] = (asked, edge.EdgeShard.create(str(path), config))

    def shard(self, name: str, context: grpc.ServicerContext) -> edge.EdgeShard:
        if name not in self.kept:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Collection `{name}` doesn't exist!")
        return self.kept[name][1]

    def link(self) -> None:
        """Puts new points into the graph, if no more come: they would have to wait for that."""
        if self.changed + LINKED_EVERY_SECONDS / 2 < time.monotonic():
            for _, shard in list(self.kept.values()):
                with self.lock:
                    shard.optimize()


class Health(messages.QdrantServicer):
    def HealthCheck(self, _asked: object, _context: object) -> messages.HealthCheckReply:
        return messages.HealthCheckReply(version=RELEASE)


class Collections(messages.CollectionsServicer):
    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def CollectionExists(self, asked, _context):
        exists = asked.collection_name in self.shards.kept
        return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=exists))

    def Create(self, asked, _context):
        self.shards.create(asked)
        return messages.CollectionOperationResponse(result=True)

    def Get(self, asked, context):
        self.shards.shard(asked.collection_name, context)
        created = self.shards.kept[asked.collection_name][0]
        params = messages.CollectionParams(
            vectors_config=created.vectors_config,
            replication_factor=created.replication_factor,
            write_consistency_factor=created.write_consistency_factor,
        )
        config = messages.CollectionConfig(
            params=params,
            hnsw_config=created.hnsw_config,
            quantization_config=created.quantization_config,
        )
        return messages.GetCollectionInfoResponse(result=messages.CollectionInfo(config=config))

    def CollectionClusterInfo(self, asked, context):
        self.shards.shard(asked.collection_name, context)
        return messages.CollectionClusterInfoResponse(
            local_shards=[messages.LocalShardInfo(shard_id=0)],
            remote_shards=[messages.RemoteShardInfo(shard_id=0)],
        )


class Points(messages.PointsServicer):
    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def update(self, asked, operation: edge.UpdateOperation, context):
        shard = self.shards.shard(asked.collection_name, context)
        with self.shards.lock:
            shard.update(operation)
            self.shards.changed = time.monotonic()
        return messages.PointsOperationResponse(
            result=messages.UpdateResult(status=messages.UpdateStatus.Completed)
        )

    def Upsert(self, asked, context):
        def kept(value: messages.Value) -> int | str:
            return getattr(value, value.WhichOneof("kind"))

        new = [
            edge.Point(
                number_of(point.id),
                list(point.vectors.vector.dense.data),
                {key: kept(value) for key, value in point.payload.items()},
            )
            for point in asked.points
        ]
        condition = filter_of(asked.update_filter)
        return self.update(asked, edge.UpdateOperation.upsert_points(new, condition=condition), context)

    def Delete(self, asked, context):
        filtered = filter_of(asked.points.filter)
        return self.update(asked, edge.UpdateOperation.delete_points_by_filter(filtered), context)

    def Query(self, asked, context):
        shard, how = self.shards.shard(asked.collection_name, context), asked.params.quantization
        scored_again = edge.QuantizationSearchParams(rescore=how.rescore, oversampling=how.oversampling)
        found = shard.query(
            edge.QueryRequest(
                asked.limit,
                query=edge.Query.Nearest(list(asked.query.nearest.dense.data)),
                with_payload=True,
                params=edge.SearchParams(hnsw_ef=asked.params.hnsw_ef, quantization=scored_again),
            )
        )
        result = [
            messages.ScoredPoint(id=id_of(one.id), payload=payload_of(one.payload), score=one.score)
            for one in found
        ]
        return messages.QueryResponse(result=result)

    def Scroll(self, asked, context):
        shard = self.shards.shard(asked.collection_name, context)
        request = edge.ScrollRequest(offset=number_of(asked.offset), limit=asked.limit, with_payload=True)
        found, following = shard.scroll(request)
        result = [messages.RetrievedPoint(id=id_of(one.id), payload=payload_of(one.payload)) for one in found]
        offset = None if following is None else id_of(following)
        return messages.ScrollResponse(result=result, next_page_offset=offset)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        shards, ended = Shards(Path(folder)), threading.Event()
        server = grpc.server(ThreadPoolExecutor(8))
        messages.add_QdrantServicer_to_server(Health(), server)
        messages.add_CollectionsServicer_to_server(Collections(shards), server)
        messages.add_PointsServicer_to_server(Points(shards), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()

        def link() -> None:
            while not ended.wait(LINKED_EVERY_SECONDS):
                shards.link()

        linking = threading.Thread(target=link)
        linking.start()
        environment = {**os.environ, "QDRANT_URLS": f"http://127.0.0.1:{port}"}
        names = ["in_qdrant", "--nocapture"]
        command = sys.argv[1:] or ["cargo", "test", "--locked", "--quiet", "--test", "it", "--", *names]
        tested = subprocess.run(command, cwd=ROOT, env=environment)
        ended.set()
        linking.join()
        server.stop(None)
    return tested.returncode


if __name__ == "__main__":
    sys.exit(main())
