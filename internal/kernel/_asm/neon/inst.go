package main

import (
	"fmt"
	"strings"
)

// An op is a vector instruction: its name, its word with all registers 0, and the shapes of its
// operands, the result first; what begins with # is printed as it is.
type op struct {
	name   string
	base   uint32
	shapes string
}

// Encodings: Arm Architecture Reference Manual, C7.2.
var (
	fadd   = op{"fadd", 0x4e20d400, "4s 4s 4s"}
	fsub   = op{"fsub", 0x4ea0d400, "4s 4s 4s"}
	fmul   = op{"fmul", 0x6e20dc00, "4s 4s 4s"}
	fdiv   = op{"fdiv", 0x6e20fc00, "4s 4s 4s"}
	fmla   = op{"fmla", 0x4e20cc00, "4s 4s 4s"} // d + n·m, rounded once
	fmls   = op{"fmls", 0x4ea0cc00, "4s 4s 4s"} // d - n·m
	fmax   = op{"fmax", 0x4e20f400, "4s 4s 4s"} // NaN if one of them is
	fmin   = op{"fmin", 0x4ea0f400, "4s 4s 4s"}
	fcmeq  = op{"fcmeq", 0x4e20e400, "4s 4s 4s"}
	fcmgt  = op{"fcmgt", 0x6ea0e400, "4s 4s 4s"}
	faddp  = op{"faddp", 0x6e20d400, "4s 4s 4s"}
	fadd2  = op{"fadd", 0x4e60d400, "2d 2d 2d"}
	fsub2  = op{"fsub", 0x4ee0d400, "2d 2d 2d"}
	fmla2  = op{"fmla", 0x4e60cc00, "2d 2d 2d"}
	add    = op{"add", 0x4ea08400, "4s 4s 4s"}
	add2   = op{"add", 0x4ee08400, "2d 2d 2d"}
	sub    = op{"sub", 0x6ea08400, "4s 4s 4s"}
	and    = op{"and", 0x4e201c00, "16b 16b 16b"}
	bic    = op{"bic", 0x4e601c00, "16b 16b 16b"} // n and not m
	orr    = op{"orr", 0x4ea01c00, "16b 16b 16b"}
	eor    = op{"eor", 0x6e201c00, "16b 16b 16b"}
	bsl    = op{"bsl", 0x6e601c00, "16b 16b 16b"} // n where d has ones, m elsewhere
	cmhs   = op{"cmhs", 0x6e603c00, "8h 8h 8h"}   // n >= m, without signs
	zip1   = op{"zip1", 0x4e803800, "4s 4s 4s"}
	zip2   = op{"zip2", 0x4e807800, "4s 4s 4s"}
	zip1d  = op{"zip1", 0x4ec03800, "2d 2d 2d"}
	zip2d  = op{"zip2", 0x4ec07800, "2d 2d 2d"}
	zip1h  = op{"zip1", 0x4e403800, "8h 8h 8h"}
	zip2h  = op{"zip2", 0x4e407800, "8h 8h 8h"}
	uzp1   = op{"uzp1", 0x4e801800, "4s 4s 4s"}
	uzp2   = op{"uzp2", 0x4e805800, "4s 4s 4s"}
	uzp2h  = op{"uzp2", 0x4e405800, "8h 8h 8h"}
	umull  = op{"umull", 0x2ea0c000, "2d 2s 2s"}
	umull2 = op{"umull2", 0x6ea0c000, "2d 4s 4s"}

	frintn  = op{"frintn", 0x4e218800, "4s 4s"} // to nearest, ties to even
	fcvtns  = op{"fcvtns", 0x4e21a800, "4s 4s"} // the same as int32; NaN is 0
	mvn     = op{"mvn", 0x6e205800, "16b 16b"}
	scvtf   = op{"scvtf", 0x4e21d800, "4s 4s"}
	fabs    = op{"fabs", 0x4ea0f800, "4s 4s"}
	fneg    = op{"fneg", 0x6ea0f800, "4s 4s"}
	fsqrt   = op{"fsqrt", 0x6ea1f800, "4s 4s"}
	fcmle0  = op{"fcmle", 0x6ea0d800, "4s 4s #0.0"}
	fcvtl   = op{"fcvtl", 0x0e617800, "2d 2s"} // the two low float32 as float64
	fcvtl2  = op{"fcvtl2", 0x4e617800, "2d 4s"}
	fcvtlh  = op{"fcvtl", 0x0e217800, "4s 4h"} // float16 as float32
	fcvtlh2 = op{"fcvtl2", 0x4e217800, "4s 8h"}
	fcvtnh  = op{"fcvtn", 0x0e216800, "4h 4s"} // float32 as float16
	fcvtnh2 = op{"fcvtn2", 0x4e216800, "8h 4s"}
	shll    = op{"shll", 0x2e613800, "4s 4h #16"} // bfloat16 as float32
	shll2   = op{"shll2", 0x6e613800, "4s 8h #16"}
	sxtlb   = op{"sxtl", 0x0f08a400, "8h 8b"}
	sxtlb2  = op{"sxtl2", 0x4f08a400, "8h 16b"}
	sxtlh   = op{"sxtl", 0x0f10a400, "4s 4h"}
	sxtlh2  = op{"sxtl2", 0x4f10a400, "4s 8h"}
)

func shl(x vec, n uint32) vec {
	return op{"shl", 0x4f005400 | (32+n)<<16, fmt.Sprintf("4s 4s #%d", n)}.of(x)
}

func sshr(x vec, n uint32) vec {
	return op{"sshr", 0x4f000400 | (64-n)<<16, fmt.Sprintf("4s 4s #%d", n)}.of(x)
}

func ushr(x vec, n uint32) vec {
	return op{"ushr", 0x6f000400 | (64-n)<<16, fmt.Sprintf("4s 4s #%d", n)}.of(x)
}

// of emits the instruction with a new value as its result; into with d, which some read too.
func (o op) of(src ...vec) vec {
	d := fresh()
	o.into(d, src...)
	return d
}

func (o op) into(d vec, src ...vec) {
	var operands []string
	for _, s := range strings.Fields(o.shapes) {
		if !strings.HasPrefix(s, "#") {
			s = "v%d." + s
		}
		operands = append(operands, s)
	}
	format := o.name + " " + strings.Join(operands, ", ")
	for i, r := range d {
		regs := []reg{r}
		for _, s := range src {
			regs = append(regs, s.at(i))
		}
		emit(inst{format: format, base: o.base, regs: regs})
	}
}

// copyOf is a value of its own with x in it.
func copyOf(x vec) vec {
	d := fresh()
	for i, r := range d {
		emit(inst{format: "mov v%d.16b, v%d.16b", base: orr.base, regs: []reg{r, x.at(i), x.at(i)}})
	}
	return d
}

// zero is a value of u registers, all 0.
func zero(u int) vec {
	v := freshOf(u)
	for _, r := range v {
		emit(inst{format: "movi v%d.4s, #0x0", base: 0x4f000400, regs: []reg{r}})
	}
	return v
}

// dup spreads a general register over lanes of 32, 64 or 16 bits.
func dup(shape string, r gp) vec {
	v := freshOne()
	base, letter := map[string]uint32{"4s": 0x4e040c00, "2d": 0x4e080c00, "8h": 0x4e020c00}[shape], "w"
	if shape == "2d" {
		letter = "x"
	}
	emit(inst{format: fmt.Sprintf("dup v%%d.%s, %s%d", shape, letter, r.number()), base: base | r.number()<<5, regs: v})
	return v
}

// broadcast spreads a float32 parameter over all lanes, for the whole function.
func broadcast(name string) vec {
	plain(fmt.Sprintf("MOVWU %s, R14", arg(name)))
	return keep(dup("4s", "R14"))
}

// memory is a load or a store at an offset, a multiple of unit.
func memory(name string, base, unit uint32, r reg, p gp, at int) inst {
	where := fmt.Sprintf("[x%d]", p.number())
	if at != 0 {
		where = fmt.Sprintf("[x%d, #%d]", p.number(), at)
	}
	return inst{format: name + ", " + where, base: base | uint32(at)/unit<<10 | p.number()<<5, regs: []reg{r}}
}

// ldr and str move the vectors of a value from p+at on.
func ldr(p gp, at int) vec {
	v := fresh()
	for i, r := range v {
		emit(memory("ldr q%d", 0x3dc00000, 16, r, p, at+16*i))
	}
	return v
}

func str(v vec, p gp, at int) {
	for i, r := range v {
		emit(memory("str q%d", 0x3d800000, 16, r, p, at+16*i))
	}
}

// loadAll loads one float32 into all lanes.
func loadAll(p gp) vec {
	v := freshOne()
	emit(inst{format: fmt.Sprintf("ld1r {v%%d.4s}, [x%d]", p.number()), base: 0x4d40c800 | p.number()<<5, regs: v})
	return v
}
