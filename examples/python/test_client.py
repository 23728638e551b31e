#!/usr/bin/env python3
"""Tests a running server with the Python client: health, search, streams, errors, enrolment.

    test_client.py --server 127.0.0.1:50051 --examples examples/photos

The server must serve one deployment, built from gallery.csv and calibrated with calibrate.csv of the
examples; scripts/test-python-client.sh does all of that. What the tests enrol, they remove.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import sys
import unittest
from pathlib import Path
from unittest import mock

import grpc
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import client
from matchpoint.v1 import (
    decision_pb2,
    gallery_pb2,
    gallery_pb2_grpc,
    operating_point_pb2,
    operating_point_pb2_grpc,
    retrieval_pb2,
    retrieval_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)

# An enrolled label, whose queries took part in no calibration, and one that is never enrolled.
KNOWN = "gc_monuments_tajMahal"
UNKNOWN = "gc_world_animals_dragon"
NEW_ID = "python/\N{GREEK SMALL LETTER PI}"
TIMEOUT = 30.0

settings = argparse.Namespace(server="", examples=Path())


def photo(label: str, name: str) -> Path:
    return settings.examples / "images" / label / name


def enrolled() -> int:
    """How many items the gallery was built from."""
    with (settings.examples / "gallery.csv").open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


class Server(unittest.TestCase):
    def setUp(self) -> None:
        self.channel = client.connect(settings.server)
        self.addCleanup(self.channel.close)
        self.retrieval = retrieval_pb2_grpc.RetrievalServiceStub(self.channel)
        self.gallery = gallery_pb2_grpc.GalleryServiceStub(self.channel)

    def search(self, image: Path, limit: int = 0) -> retrieval_pb2.SearchResponse:
        request = retrieval_pb2.SearchRequest(image=image.read_bytes(), limit=limit)
        return self.retrieval.Search(request, timeout=TIMEOUT)

    def assert_refused(self, code: grpc.StatusCode, reason: str, call) -> None:
        with self.assertRaises(grpc.RpcError) as raised:
            call()
        self.assertIs(raised.exception.code(), code, raised.exception.details())
        self.assertEqual(client.call_reason(raised.exception), reason)

    def test_health_says_serving_for_readiness_liveness_and_each_service(self) -> None:
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ["", "liveness", "matchpoint.v1.RetrievalService"]:
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING, service)

    def test_reflection_lists_every_service(self) -> None:
        services = set(ProtoReflectionDescriptorDatabase(self.channel).get_services())
        ours = {"RetrievalService", "GalleryService", "OperatingPointService", "ServerService"}
        self.assertLessEqual({f"matchpoint.v1.{name}" for name in ours}, services)

    def test_server_info_describes_the_deployment(self) -> None:
        stub = server_pb2_grpc.ServerServiceStub(self.channel)
        info = stub.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=TIMEOUT)
        self.assertEqual(len(info.deployments), 1)
        deployment = info.deployments[0]
        self.assertEqual(deployment.gallery_items, enrolled())
        self.assertEqual(len(deployment.model_fingerprint), 64)
        self.assertTrue(deployment.operating_point_id)
        self.assertTrue(deployment.within_calibrated_size)

    def test_operating_point_is_the_one_that_decides(self) -> None:
        stub = operating_point_pb2_grpc.OperatingPointServiceStub(self.channel)
        request = operating_point_pb2.GetOperatingPointRequest()
        point = stub.GetOperatingPoint(request, timeout=TIMEOUT).operating_point
        basis = self.search(photo(KNOWN, "g0_ref.jpg")).basis
        self.assertEqual(basis.operating_point_id, point.id)
        self.assertEqual(basis.threshold, point.threshold)
        self.assertEqual(basis.target_far, 0.10)

    def test_a_known_picture_is_accepted_with_its_label(self) -> None:
        answer = self.search(photo(KNOWN, "q2_photometric.jpg"), limit=3)
        self.assertEqual(answer.decision, decision_pb2.DECISION_ACCEPT, answer.matches)
        self.assertEqual(answer.matches[0].label, KNOWN)
        self.assertEqual(len(answer.matches), 3)
        self.assertGreaterEqual(answer.matches[0].score, answer.basis.threshold)
        self.assertGreater(answer.timings.inference_seconds, 0)

    def test_an_unknown_picture_is_rejected_and_that_is_no_error(self) -> None:
        answer = self.search(photo(UNKNOWN, "g0_ref.jpg"))
        self.assertEqual(answer.decision, decision_pb2.DECISION_REJECT, answer.matches)
        self.assertLess(answer.matches[0].score, answer.basis.threshold)

    def test_an_embedding_finds_what_its_image_finds(self) -> None:
        image = photo(KNOWN, "q2_photometric.jpg")
        embed = retrieval_pb2.EmbedRequest(image=image.read_bytes())
        embedding = self.retrieval.Embed(embed, timeout=TIMEOUT).embedding
        request = retrieval_pb2.SearchRequest(embedding=embedding)
        by_vector = self.retrieval.Search(request, timeout=TIMEOUT)
        best, expected = by_vector.matches[0], self.search(image).matches[0]
        self.assertEqual(best.id, expected.id)
        self.assertAlmostEqual(best.score, expected.score, places=5)

    def test_a_bad_image_is_refused_with_a_reason(self) -> None:
        whole = photo(KNOWN, "g0_ref.jpg").read_bytes()
        for image, reason in [
            (b"not an image", "IMAGE_UNSUPPORTED_FORMAT"),
            (whole[: len(whole) // 2], "IMAGE_UNDECODABLE"),
        ]:
            request = retrieval_pb2.SearchRequest(image=image)
            with self.subTest(reason=reason):
                self.assert_refused(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    reason,
                    lambda request=request: self.retrieval.Search(request, timeout=TIMEOUT),
                )

    def test_an_unknown_deployment_is_refused_with_a_reason(self) -> None:
        request = retrieval_pb2.SearchRequest(deployment="nowhere", image=b"x")
        self.assert_refused(
            grpc.StatusCode.NOT_FOUND,
            "DEPLOYMENT_NOT_FOUND",
            lambda: self.retrieval.Search(request, timeout=TIMEOUT),
        )

    def test_a_bad_item_does_not_end_a_stream(self) -> None:
        good = photo(KNOWN, "g0_ref.jpg").read_bytes()
        images = {"a": good, "b": good, "bad": b"not an image", "c": good, "d": good}
        requests = [
            retrieval_pb2.SearchStreamRequest(
                request_id=name, search=retrieval_pb2.SearchRequest(image=image, limit=1)
            )
            for name, image in images.items()
        ]
        answers = {a.request_id: a for a in self.retrieval.SearchStream(iter(requests), timeout=TIMEOUT)}
        self.assertEqual(set(answers), set(images))
        for name, answer in answers.items():
            if name == "bad":
                self.assertEqual(answer.error.code, code_pb2.INVALID_ARGUMENT)
                self.assertEqual(client.error_reason(answer.error), "IMAGE_UNSUPPORTED_FORMAT")
            else:
                self.assertEqual(answer.result.matches[0].label, KNOWN)

    def test_an_item_can_be_enrolled_read_found_and_removed(self) -> None:
        image = photo(UNKNOWN, "g0_ref.jpg")
        item = gallery_pb2.UpsertItemRequest(
            id=NEW_ID, label="new", metadata={"from": "python"}, image=image.read_bytes()
        )
        before = self.search(image)
        self.addCleanup(self.forget, NEW_ID)
        first = self.gallery.UpsertItem(item, timeout=TIMEOUT)
        self.assertFalse(first.replaced)
        self.assertGreater(first.generation, before.generation)
        self.assertTrue(self.gallery.UpsertItem(item, timeout=TIMEOUT).replaced)

        get = gallery_pb2.GetItemRequest(id=NEW_ID, include_embedding=True)
        stored = self.gallery.GetItem(get, timeout=TIMEOUT).item
        self.assertEqual((stored.label, dict(stored.metadata)), ("new", {"from": "python"}))
        self.assertEqual(len(stored.embedding.values), 1280)
        self.assertIn(NEW_ID, self.all_ids())

        found = self.search(image, limit=1)
        self.assertEqual((found.matches[0].id, found.gallery_items), (NEW_ID, enrolled() + 1))
        self.assertEqual(found.matches[0].metadata["from"], "python")
        self.assertEqual(found.basis.items_added, 1)
        self.assertLess(found.basis.gallery_coverage, 1)

        delete = gallery_pb2.DeleteItemRequest(id=NEW_ID)
        self.gallery.DeleteItem(delete, timeout=TIMEOUT)
        after = self.search(image)
        self.assertNotIn(NEW_ID, [match.id for match in after.matches])
        self.assertTrue(after.basis.within_calibrated_size)
        self.assert_refused(
            grpc.StatusCode.NOT_FOUND,
            "ITEM_NOT_FOUND",
            lambda: self.gallery.DeleteItem(delete, timeout=TIMEOUT),
        )

    def all_ids(self) -> list[str]:
        ids: list[str] = []
        token = ""
        while True:
            request = gallery_pb2.ListItemsRequest(page_size=20, page_token=token)
            page = self.gallery.ListItems(request, timeout=TIMEOUT)
            ids += [item.id for item in page.items]
            token = page.next_page_token
            if not token:
                self.assertEqual(len(ids), page.total_items)
                self.assertEqual(ids, sorted(ids, key=str.encode))
                return ids

    def forget(self, id: str) -> None:
        with contextlib.suppress(grpc.RpcError):
            self.gallery.DeleteItem(gallery_pb2.DeleteItemRequest(id=id), timeout=TIMEOUT)

    def test_verify_compares_with_an_image_and_with_an_item(self) -> None:
        query = photo(KNOWN, "q2_photometric.jpg").read_bytes()
        enrolled = self.search(photo(KNOWN, "g0_ref.jpg"), limit=1).matches[0].id
        for reference, decision in [
            (retrieval_pb2.Reference(item_id=enrolled), decision_pb2.DECISION_ACCEPT),
            (
                retrieval_pb2.Reference(image=photo(UNKNOWN, "g0_ref.jpg").read_bytes()),
                decision_pb2.DECISION_REJECT,
            ),
        ]:
            request = retrieval_pb2.VerifyRequest(image=query, reference=reference)
            with self.subTest(reference=reference.WhichOneof("source")):
                answer = self.retrieval.Verify(request, timeout=TIMEOUT)
                self.assertEqual(answer.decision, decision, answer.score)

    def run_client(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        line = ["client.py", "--server", settings.server, *arguments]
        with (
            mock.patch.object(sys, "argv", line),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            return client.main(), out.getvalue(), err.getvalue()

    def test_the_command_line_searches_compares_and_enrols(self) -> None:
        known, other = str(photo(KNOWN, "g0_ref.jpg")), str(photo(UNKNOWN, "g0_ref.jpg"))
        code, out, err = self.run_client("search", known, other)
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"{known}: ACCEPT", out)
        self.assertIn(f"{other}: REJECT", out)

        bad = str(settings.examples / "labels.csv")
        code, out, err = self.run_client("search", "--stream", known, bad)
        self.assertEqual(code, client.EXIT_SOME_FAILED)
        self.assertIn(f"{known}: ACCEPT", out)
        self.assertIn(f"{bad}: IMAGE_UNSUPPORTED_FORMAT", err)

        code, out, _ = self.run_client("verify", known, other)
        self.assertEqual((code, out[:6]), (0, "REJECT"))

        self.addCleanup(self.forget, "cli")
        code, out, _ = self.run_client("upsert", "cli", "new", other, "--metadata", "a=b")
        self.assertEqual((code, out[:12]), (0, "enrolled cli"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Test a running server with the Python client.")
    parser.add_argument("--server", default=os.environ.get("MATCHPOINT_SERVER"), help="HOST:PORT")
    examples = Path(__file__).resolve().parent.parent / "photos"
    parser.add_argument("--examples", default=examples, type=Path)
    parser.parse_args(namespace=settings)
    if not settings.server:
        parser.error("--server, or MATCHPOINT_SERVER, is required")

    tests = unittest.defaultTestLoader.loadTestsFromTestCase(Server)
    result = unittest.TextTestRunner(verbosity=2).run(tests)
    failed = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    sys.stderr.flush()
    print(f"{result.testsRun - failed} passed, {failed} failed", flush=True)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
