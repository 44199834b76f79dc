// Package llmd tests kvtier's event stream from the side of a router.
package llmd
