//go:build tools

// Package tools holds the conformance suite's version in go.mod; `cargo xtask conformance` builds the suite's command.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
