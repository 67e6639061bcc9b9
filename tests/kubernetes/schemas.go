//go:build schemas

package main

// Nothing is built of it: its module carries the definition of ServiceMonitors, which `cargo xtask test` copies from there.
import _ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
