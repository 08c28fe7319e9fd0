"""gRPC's health service (grpc.health.v1.Health/Check) by gRPC's own library.

Serves on the address that it is given, says `ready`, and takes `SERVICE STATUS` from each line of
standard input (`-` is the server as a whole). It ends with its standard input. The two messages
have one field each and are read and written here, so that no generated code is needed.

Must not know: who asks.
"""

import sys
from concurrent import futures

import grpc

STATUS = {"": 1}


def check(request, context):
    """Both messages as bytes: field 1 is the name, field 1 is the status."""
    service = request[2:].decode() if request else ""
    if service not in STATUS:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([8, STATUS[service]])


def main():
    method = grpc.unary_unary_rpc_method_handler(check)
    service = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((service,))
    if not server.add_insecure_port(sys.argv[1]):
        sys.exit("cannot listen on " + sys.argv[1])
    server.start()
    print("ready", flush=True)
    for line in sys.stdin:
        name, status = line.split()
        STATUS["" if name == "-" else name] = int(status)
        print("ok", flush=True)


main()
