// Kubernetes for the tests of k8s/: an API server over an etcd of its own, kubectl, and kustomize, in one program.
package main

import (
	"fmt"
	"os"
)

const usage = `usage:
  kubernetes serve DIRECTORY PORT    run an API server on 127.0.0.1:PORT until a signal; writes DIRECTORY/kubeconfig
  kubernetes kubectl ARGUMENT…       kubectl
  kubernetes render DIRECTORY        what kustomize makes of a folder, as a JSON array of objects`

func main() {
	command, arguments := "", []string(nil)
	if len(os.Args) > 1 {
		command, arguments = os.Args[1], os.Args[2:]
	}
	var err error
	switch {
	case command == "serve" && len(arguments) == 2:
		err = serve(arguments[0], arguments[1])
	case command == "kubectl":
		err = kubectl(arguments)
	case command == "render" && len(arguments) == 1:
		err = render(arguments[0])
	default:
		err = fmt.Errorf("unknown command\n%s", usage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
