package main

import (
	"fmt"
	"slices"
)

// lanes is what the body of a loop knows: the vectors of four that it works on, or that it
// works on one element, in the low lane of a vector.
type lanes struct{ single bool }

func (l lanes) load(p gp) vec {
	if !l.single {
		return ldr(p, 0)
	}
	v := fresh()
	emit(memory("ldr s%d", 0xbd400000, 4, v[0], p, 0)) // the other lanes become 0
	return v
}

// loadAll is load with all lanes in use: for maxima.
func (l lanes) loadAll(p gp) vec {
	if l.single {
		return loadAll(p)
	}
	return l.load(p)
}

func (l lanes) store(v vec, p gp) {
	if l.single {
		emit(memory("str s%d", 0xbd000000, 4, v[0], p, 0))
	} else {
		str(v, p, 0)
	}
}

// keep clears the lanes that are not in use: for sums.
func (l lanes) keep(v vec) vec {
	if l.single {
		return and.of(v, words([4]uint32{1<<32 - 1}))
	}
	return v
}

// loop emits a loop over n elements at each of ptrs: eight at a time, then four, then single
// ones. wideLoop, for bodies of few instructions, begins with sixteen.
func loop(n gp, ptrs []gp, body func(l lanes))     { loopOf(2, n, ptrs, body) }
func wideLoop(n gp, ptrs []gp, body func(l lanes)) { loopOf(4, n, ptrs, body) }

func loopOf(vectors int, n gp, ptrs []gp, body func(l lanes)) {
	pass := func(name string, u, elements int, single bool) {
		label(name)
		cur.u = u
		body(lanes{single: single})
		cur.u = 1
		for _, p := range ptrs {
			plain(fmt.Sprintf("ADD $%d, %s", 4*elements, p))
		}
		plain(fmt.Sprintf("SUBS $%d, %s, %s", elements, n, n))
	}
	wide := 4 * vectors
	plain(fmt.Sprintf("SUBS $%d, %s, %s", wide, n, n))
	plain("BLT few")
	pass("wide", vectors, wide, false)
	plain("BGE wide")
	label("few")
	plain(fmt.Sprintf("ADDS $%d, %s, %s", wide-4, n, n))
	plain("BLT rest")
	pass("four", 1, 4, false)
	plain("BGE four")
	label("rest")
	plain(fmt.Sprintf("ADDS $4, %s, %s", n, n))
	plain("BEQ end")
	pass("one", 1, 1, true)
	plain("BNE one")
	label("end")
}

// part is the registers of a value of all vectors that this pass of a loop uses: for sums.
func part(v vec) vec { return v[:cur.u] }

// widen converts the lanes of x to two values of float64.
func widen(x vec) (a, b vec) { return fcvtl.of(x), fcvtl2.of(x) }

// fold combines the registers of v, a power of two, in the first one, which it returns.
func fold(o op, v vec) vec {
	for n := len(v) / 2; n > 0; n /= 2 {
		o.into(v[:n], v[:n], v[n:2*n])
	}
	return v[:1]
}

// sum64 returns the sum of all lanes of float64 values in the low lane; it spoils them.
func sum64(values ...vec) reg {
	all := fold(fadd2, slices.Concat(values...))
	emit(inst{format: "faddp d%d, v%d.2d", base: 0x7e70d800, regs: []reg{all[0], all[0]}})
	return all[0]
}

// eachRow emits a loop over rows and, inside it, one over width bytes of a row, eight
// elements at a time.
func eachRow(rows, width gp, body func(at row), next func()) {
	at := row{newGP(), newGP()}
	label("row")
	plain("MOVD ZR, " + string(at.lo))
	plain("MOVD $16, " + string(at.hi))
	label("eight")
	cur.u = 2
	body(at)
	cur.u = 1
	plain("ADD $32, " + string(at.lo))
	plain("ADD $32, " + string(at.hi))
	plain(fmt.Sprintf("CMP %s, %s", width, at.lo))
	plain("BLT eight")
	next()
	plain(fmt.Sprintf("SUBS $1, %s, %s", rows, rows))
	plain("BNE row")
}

// A row is the offsets of two vectors from the start of a row, in bytes.
type row struct{ lo, hi gp }

func (w row) load(p gp) vec {
	v := fresh()
	w.move("ldr", 0x3ce06800, v, p)
	return v
}

func (w row) store(v vec, p gp) { w.move("str", 0x3ca06800, v, p) }

func (w row) move(name string, base uint32, v vec, p gp) {
	for i, o := range []gp{w.lo, w.hi} {
		emit(inst{format: fmt.Sprintf("%s q%%d, [x%d, x%d]", name, p.number(), o.number()), base: base | o.number()<<16 | p.number()<<5, regs: []reg{v[i]}})
	}
}

func unlessNil(p gp, name string, body func()) {
	plain(fmt.Sprintf("CBZ %s, no%s", p, name))
	body()
	label("no" + name)
}
