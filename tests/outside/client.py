"""An agent that Bulkhead's authors could have nothing to do with: gRPC code made from the .proto files,
PyJWT for the assertion, the standard library for the token endpoint.

Checks one embedding against the reference, one streamed answer for its sense, the sampling by its own
log-probabilities, that tokens are renewed, and that a server with another authority is not trusted. Exits
with 0 only if all of it holds.

    python client.py CREDENTIALS.json REFERENCE.json
"""

import json
import math
import ssl
import sys
import threading
import time
import urllib.parse
import urllib.request
import uuid

import grpc
import jwt

import sampling
from bulkhead.v1 import inference_pb2, inference_pb2_grpc

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
COSINE_MIN = 0.9999
CALL_S_MAX = 60


class Tokens(grpc.AuthMetadataPlugin):
    """Gives each call a token that is good for now; renews it at four fifths of its life."""

    def __init__(self, credentials, clock=time.monotonic):
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        self._token = None
        self._renew_at = 0.0
        self.fetched = 0

    def get(self):
        with self._lock:
            if self._token is None or self._clock() >= self._renew_at:
                asked = self._clock()
                answer = self._fetch()
                self._token = answer["access_token"]
                self._renew_at = asked + 0.8 * answer["expires_in"]
                self.fetched += 1
            return self._token

    def __call__(self, context, callback):
        try:
            callback((("authorization", "Bearer " + self.get()),), None)
        except Exception as error:  # handed to gRPC, which fails the call with it
            callback((), error)

    def _assertion(self):
        own = self._credentials
        now = int(time.time())
        claims = {
            "iss": own["agent"],
            "sub": own["agent"],
            "aud": own["issuer"],
            "iat": now,
            "exp": now + 60,
            "jti": str(uuid.uuid4()),
        }
        headers = {"kid": own["key_id"]}
        return jwt.encode(claims, own["private_key_pem"], algorithm="EdDSA", headers=headers)

    def _fetch(self):
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self._assertion(),
        }
        trust = ssl.create_default_context(cadata=self._credentials["ca_pem"])
        trust.minimum_version = ssl.TLSVersion.TLSv1_3
        url = self._credentials["issuer"] + "/oauth/token"
        body = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(url, body, timeout=10, context=trust) as answer:
            return json.load(answer)


def connect(credentials, tokens, ca_pem=None):
    """A channel that trusts the given authority alone and sends a token with each call."""
    roots = (ca_pem or credentials["ca_pem"]).encode()
    secure = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(root_certificates=roots),
        grpc.metadata_call_credentials(tokens),
    )
    address = urllib.parse.urlsplit(credentials["issuer"]).netloc
    return grpc.secure_channel(address, secure)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def check_receipt(receipt):
    assert receipt.request_id, receipt
    assert receipt.admitted_position < receipt.completed_position, receipt
    assert receipt.scrub.bytes_verified > 0, receipt
    assert receipt.scrub.residue_bytes == 0, receipt


def check_embed(stub, reference):
    cases = reference["cases"][:4]
    request = inference_pb2.EmbedRequest(model="minilm", texts=[c["text"] for c in cases])
    answer = stub.Embed(request, timeout=CALL_S_MAX)
    for case, embedding in zip(cases, answer.embeddings, strict=True):
        agreement = cosine(embedding.values, case["embedding"])
        assert agreement >= COSINE_MIN, (agreement, case["text"])
        assert embedding.tokens == len(case["input_ids"]), case["text"]
    check_receipt(answer.receipt)
    print(f"embedded {len(cases)} texts as the reference does")


def check_generate(stub):
    question = inference_pb2.ChatMessage(role="user", content="What is the capital of France?")
    request = inference_pb2.GenerateRequest(model="smollm2", messages=[question], max_tokens=32)
    pieces, done = [], None
    for message in stub.Generate(request, timeout=CALL_S_MAX):
        assert done is None, "nothing comes after `done`"
        if message.text:
            pieces.append(message.text)
        if message.HasField("done"):
            done = message.done
    text = "".join(pieces)
    assert len(pieces) > 1, pieces
    assert "Paris" in text, text
    assert done.finish_reason == "stop", done
    assert done.usage.output_tokens >= len(pieces), done
    check_receipt(done.receipt)
    print(f"streamed in {len(pieces)} pieces: {text!r}")


def check_renewal(credentials):
    now = [1000.0]
    tokens = Tokens(credentials, clock=lambda: now[0])
    stub = inference_pb2_grpc.InferenceStub(connect(credentials, tokens))
    ask = inference_pb2.ListModelsRequest()
    names = {model.name for model in stub.ListModels(ask, timeout=CALL_S_MAX).models}
    assert {"minilm", "smollm2"} <= names, names
    first = tokens.get()
    now[0] += 600
    assert tokens.get() == first and tokens.fetched == 1, "kept while it is good"
    now[0] += 200
    stub.ListModels(ask, timeout=CALL_S_MAX)
    assert tokens.get() != first and tokens.fetched == 2, "renewed before it runs out"
    print("the token renews itself")


def check_trust(credentials, stranger_pem):
    stub = inference_pb2_grpc.InferenceStub(
        connect(credentials, Tokens(credentials), ca_pem=stranger_pem)
    )
    try:
        stub.ListModels(inference_pb2.ListModelsRequest(), timeout=5)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        print("a server with another authority is not trusted")
        return
    raise AssertionError("a certificate of an unknown authority was accepted")


def stranger():
    """An authority that nobody knows."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stranger")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        credentials = json.load(file)
    with open(sys.argv[2], encoding="utf-8") as file:
        reference = json.load(file)
    stub = inference_pb2_grpc.InferenceStub(connect(credentials, Tokens(credentials)))
    check_embed(stub, reference)
    check_generate(stub)
    sampling.check_all(stub, CALL_S_MAX)
    check_renewal(credentials)
    check_trust(credentials, stranger())


if __name__ == "__main__":
    main()
