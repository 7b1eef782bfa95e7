package main

import (
	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/train"
)

// trainedPool is the --pool that the head of a run was trained with: "auto" is what
// models of its family read, and what everything but a run has.
func trainedPool(dir string) string {
	if r, err := train.ReadSummary(dir); err == nil && r.Config["pool"] != "" {
		return r.Config["pool"]
	}
	return "auto"
}

// warnPool says where an output has the heads of adapters, but not what they read.
func (a *app) warnPool(out string, adapters ...*adapter.Adapter) {
	for _, ad := range adapters {
		if p := trainedPool(ad.Dir); p != "auto" && len(ad.Head) > 0 {
			a.warn("the head of %s was trained with --pool %s, for which %s has no place: give eval and predict --pool %s; other programs compute something else", ad.Dir, p, out, p)
		}
	}
}
