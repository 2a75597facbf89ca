#!/bin/sh
# vLLM's router (pip install vllm-router) before several DRR servers. Affinity is by the header X-Session-ID, for the
# prefix cache between the turns of a conversation. Have every client send one: all requests without it go to the same
# server. The router passes 429 on to the client, whose library obeys Retry-After.
exec vllm-router --host 0.0.0.0 --port 8080 \
  --worker-urls http://drr-0:8000 http://drr-1:8000 \
  --policy consistent_hash \
  --health-check-endpoint /ready --health-check-interval-secs 2 \
  --health-failure-threshold 1 --health-success-threshold 1 \
  --retry-max-retries 2 --request-timeout-secs 600 \
  --prometheus-port 9090
