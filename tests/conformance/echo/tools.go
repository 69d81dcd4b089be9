//go:build tools

// Package echo names the programs of the pods of the suite's mesh manifests, so that `go mod tidy` keeps them: Istio's echo
// server and its client, which Gateway API republishes as echo-advanced.
package echo

import (
	_ "istio.io/istio/pkg/test/echo/cmd/client"
	_ "istio.io/istio/pkg/test/echo/cmd/server"
)
