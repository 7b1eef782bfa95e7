package testkit

import "unsafe"

// element is &s[i] for an i that may lie outside.
func element(s []float32, i int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(&s[0]), 4*i))
}
