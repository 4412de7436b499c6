"""gRPC through a server: its own client calls a function, and a function calls its own server.

check.py GANNET COMPONENT runs a development server with the component `faulty`, which has a small service.
"""

import re
import subprocess
import sys
import tempfile
from concurrent import futures
from pathlib import Path

import grpc

KEY = "gnt_dev_local"


def serve_grpc():
    """Starts a server of gRPC with one method. Returns it and its port."""

    def say(request, context):
        if request == b"nobody":
            context.set_trailing_metadata((("x-why", "unknown"),))
            context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        return b"heard: " + request

    handler = grpc.method_handlers_generic_handler("test.Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)})
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def call_function(address):
    """The client of gRPC calls the function: by its host, because such clients send no prefix of a path."""
    options = (("grpc.default_authority", "faulty--dev.localhost"),)
    metadata = (("x-gannet-key", KEY),)
    with grpc.insecure_channel(address, options) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        assert say(b"hello", metadata=metadata) == b"echo: hello"
        assert say(b"", metadata=metadata) == b"echo: "
        large = bytes(range(256)) * 4096
        assert say(large, metadata=metadata) == b"echo: " + large
        _, call = say.with_call(b"x", metadata=metadata)
        assert call.code() is grpc.StatusCode.OK
        count = channel.unary_stream("/test.Echo/Count")
        assert list(count(b"", metadata=metadata)) == [b"1", b"2", b"3"]
        try:
            channel.unary_unary("/test.Echo/Missing")(b"", metadata=metadata)
        except grpc.RpcError as error:
            assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "not here"), error
        else:
            raise AssertionError("the call must fail")
        try:
            say(b"x")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED, error
        else:
            raise AssertionError("a call without a key must fail")


def call_server(address, port):
    """The function calls the server of gRPC."""
    import urllib.request

    def call(message):
        url = f"http://{address}/f/dev/faulty/grpc-call?url=http://127.0.0.1:{port}/test.Echo/Say"
        request = urllib.request.Request(url, data=message, headers={"x-gannet-key": KEY})
        return urllib.request.urlopen(request, timeout=60).read().decode()

    assert call(b"me") == "heard: me 0 ", call(b"me")
    assert call(b"again") == "heard: again 0 "
    assert call(b"nobody") == " 5 not here", call(b"nobody")


def main():
    gannet, component = sys.argv[1:]
    grpc_server, port = serve_grpc()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "server.toml")
        config.write_text('domain = "localhost"\nspares = 0\n[egress]\nallow_ranges = ["127.0.0.0/8"]\n')
        command = [gannet, "serve", "--dev", "--listen", "127.0.0.1:0", "--data", f"{folder}/data", "--config", config]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            address = next(
                found[1] for line in server.stderr if (found := re.search(r"listening on http://(\S+)", line))
            )
            manifest = Path(folder, "gannet.toml")
            manifest.write_text(
                'name = "faulty"\n[build]\nartifact = "faulty.wasm"\n[limits]\ncpu_ms = 2000\n'
                f'[http]\nallowed_outbound_hosts = ["http://127.0.0.1:{port}"]\n'
            )
            Path(folder, "faulty.wasm").write_bytes(Path(component).read_bytes())
            deploy = [gannet, "deploy", folder, "--server", f"http://{address}", "--key", KEY]
            subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)
            call_function(address)
            call_server(address, port)
        finally:
            server.terminate()
            server.wait()
    grpc_server.stop(None)
    print("gRPC: a client calls a function, and a function calls a server")


main()
