#!/usr/bin/env bash
# Prints the manifest of a training on several machines of a Kubernetes cluster. See --help.
set -euo pipefail

help() {
  cat <<'TEXT'
bash launch/kubernetes/jobset.sh --name NAME --image IMAGE [options] -- VERB ... | kubectl apply -f -

Prints a JobSet (jobset.sigs.k8s.io, to be installed in the cluster once): one pod a machine, each with one process
and all of that machine's accelerators, that find one another by name. A pod that is evicted, or that ends with code 75
(preempted: saved), starts all of them again, and the run goes on from its last checkpoint. Bad input (code 2) ends
the JobSet at once.

  --nodes N          machines (default 1)
  --gpus N           GPUs of each (default 8; 0 is none)
  --tpu TYPE:SHAPE   TPUs in place of GPUs, as GKE names them: tpu-v5-lite-podslice:4x4 (4 chips a machine)
  --claim NAME       a ReadWriteMany volume claim, mounted at /data: datasets and runs (default vitmed)
  --memory SIZE      of each pod (default 64Gi)
  --cpus N           of each pod (default 8)
  --restarts N       how often it is started again (default 100)
  --grace SECONDS    from the notice of an eviction to the end: time to save (default 120)

  bash launch/kubernetes/jobset.sh --name mae --image REGISTRY/vitmed:1 --nodes 2 -- \
      train --config /opt/vitmed/configs/pretrain_mae.py:l16,224 --config.data.path=/data/chest --workdir /data/runs/mae \
      | kubectl apply -f -
  kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=mae,batch.kubernetes.io/job-completion-index=0

The image is built by launch/kubernetes/Containerfile.
TEXT
}

stop() { echo "jobset.sh: $*" >&2; exit 2; }

name="" image="" nodes=1 gpus=8 tpu="" claim=vitmed memory=64Gi cpus=8 restarts=100 grace=120
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) help; exit ;;
    --) shift; break ;;
    --name | --image | --nodes | --gpus | --tpu | --claim | --memory | --cpus | --restarts | --grace)
      [ $# -gt 1 ] || stop "$1 has no value"
      printf -v "${1#--}" %s "$2"; shift 2 ;;
    *) stop "$1 is no option of this script; put -- before the verb (see --help)" ;;
  esac
done
[ -n "$name" ] || stop "--name is missing"
[ -n "$image" ] || stop "--image is missing; build one with launch/kubernetes/Containerfile"
[ $# -gt 0 ] || stop "nothing to run; end with -- train --config ... --workdir ..."
[[ $name =~ ^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$ ]] || stop "--name $name must be short, of a-z, 0-9 and -"
for number in nodes gpus cpus restarts grace; do
  [[ ${!number} =~ ^[0-9]+$ ]] || stop "--$number ${!number} is not a number"
done
[ "$nodes" -gt 0 ] || stop "--nodes is 0; at least one machine is needed"

# JSON strings are YAML: quotes, spaces and backslashes of a word arrive as they were typed.
quoted() { local word=${1//\\/\\\\}; printf '"%s"' "${word//\"/\\\"}"; }
words=""
for word in "$@"; do words+="${words:+, }$(quoted "$word")"; done

resources="cpu: \"$cpus\", memory: $memory" selector="{}"
if [ -n "$tpu" ]; then
  [[ $tpu =~ ^([-a-z0-9]+):([0-9x]+)$ ]] || stop "--tpu $tpu is not TYPE:SHAPE, such as tpu-v5-lite-podslice:4x4"
  selector="{cloud.google.com/gke-tpu-accelerator: ${BASH_REMATCH[1]}, cloud.google.com/gke-tpu-topology: ${BASH_REMATCH[2]}}"
  resources+=", google.com/tpu: \"4\""
elif [ "$gpus" -gt 0 ]; then
  resources+=", nvidia.com/gpu: \"$gpus\""
fi

cat <<MANIFEST
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
spec:
  network: {enableDNSHostnames: true, publishNotReadyAddresses: true}
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - {name: badinput, action: FailJobSet, onJobFailureReasons: [PodFailurePolicy]}
  replicatedJobs:
    - name: worker
      replicas: 1
      template:
        spec:
          parallelism: $nodes
          completions: $nodes
          completionMode: Indexed
          backoffLimit: 0 # one lost process ends the step of all: the JobSet starts all of them again
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: vitmed, operator: In, values: [2]}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace
              nodeSelector: $selector
              containers:
                - name: vitmed
                  image: $(quoted "$image")
                  args: [$words]
                  env:
                    - {name: JAX_COORDINATOR_ADDRESS, value: "$name-worker-0-0.$name:8476"}
                    - {name: VITMED_PROCESSES, value: "$nodes"}
                    - name: VITMED_PROCESS
                      valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
                  resources:
                    requests: {$resources}
                    limits: {$resources}
                  volumeMounts:
                    - {name: data, mountPath: /data}
                    - {name: shm, mountPath: /dev/shm}
              volumes:
                - name: data
                  persistentVolumeClaim: {claimName: $claim}
                - name: shm
                  emptyDir: {medium: Memory}
MANIFEST
