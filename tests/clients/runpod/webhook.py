"""Receives webhooks: webhook.py SECRET [STATUS ...]. The first line that it prints is its URL. Each delivery that the
package standardwebhooks verifies is printed as one line of JSON, which verify.mjs reads too. The first deliveries are
answered with the given statuses, later ones with 200. One that is not verified is answered with 400."""
import http.server
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

SECRET, STATUSES = sys.argv[1], [int(status) for status in sys.argv[2:]]


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            event = Webhook(SECRET).verify(body, headers)
        # The package lets other errors through for headers that are no valid base64.
        except (WebhookVerificationError, ValueError) as error:
            print(f"not verified: {error!r}: {headers} {body!r}", file=sys.stderr, flush=True)
            return self.answer(400)
        status = STATUSES.pop(0) if STATUSES else 200
        line = {"id": event["id"], "status": event["status"], "answered": status, "secret": SECRET, "headers": headers}
        print(json.dumps({**line, "body": body.decode()}), flush=True)
        self.answer(status)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
print(f"http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
