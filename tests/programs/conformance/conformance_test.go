// Gateway API's own conformance suite, compiled as it stands: all that is ours are the flags that `xtask` gives it.
package conformance_test

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
