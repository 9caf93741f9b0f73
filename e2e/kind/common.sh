# What the testbeds on kind and multipass have in common, for both to source: kubectl has the cluster's context.

install_crier() {
  say "Crier"
  kubectl apply --server-side -f deploy/crier.yaml
  kubectl -n crier-system rollout status ds/crier --timeout=120s
}

# A pool of a range, announced everywhere.
add_pool() {
  say "a pool: $1"
  kubectl apply -f - <<END
apiVersion: crier.io/v1alpha1
kind: IPAddressPool
metadata: {name: testbed, namespace: crier-system}
spec: {addresses: [$1]}
---
apiVersion: crier.io/v1alpha1
kind: L2Advertisement
metadata: {name: testbed, namespace: crier-system}
END
}

demo() {
  say "a service"
  kubectl apply -f deploy/sample.yaml
  kubectl rollout status deploy/web --timeout=180s
  for _ in $(seq 50); do
    [ -n "$(owner_of web)" ] && return
    sleep 0.2
  done
  kubectl describe service web >&2
  die "the service web has no owner after 10 s"
}

address_of() { kubectl get service "$1" -o 'jsonpath={.status.loadBalancer.ingress[0].ip}'; }
owner_of() { kubectl get vip "$1" -o 'jsonpath={.status.owner}' 2>/dev/null || true; }
show() { kubectl get vips -A && kubectl get events --field-selector involvedObject.name=web; }
