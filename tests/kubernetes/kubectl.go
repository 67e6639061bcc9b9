package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// kubectl runs kubectl, which looks for plug-ins in the command line of the process.
func kubectl(arguments []string) error {
	os.Args = append([]string{"kubectl"}, arguments...)
	command := cmd.NewDefaultKubectlCommand()
	command.SetArgs(arguments)
	return cli.RunNoErrOutput(command)
}

// render prints what `kubectl apply -k` would send.
func render(directory string) error {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		return fmt.Errorf("kustomize does not build %s: %w", directory, err)
	}
	objects := []map[string]any{}
	for _, resource := range resources.Resources() {
		object, err := resource.Map()
		if err != nil {
			return err
		}
		objects = append(objects, object)
	}
	return json.NewEncoder(os.Stdout).Encode(objects)
}
