package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// A reg is a virtual vector register. Each stands for one of V0 to V31 from its first use to
// its last, or to the function's end if it is kept.
type reg int

// A vec is one value of each of the vectors that a loop works on together: an instruction
// on it is one for each register. One register serves all vectors where it is a constant.
type vec []reg

func (v vec) at(i int) reg {
	if len(v) == 1 {
		return v[0]
	}
	return v[i]
}

// An inst is an instruction. regs go to its fields Rd, Rn and Rm, and to the %d of format,
// (one that repeats may be left out of it), which is a mnemonic or, where plain, a line of
// Go's assembler.
type inst struct {
	format string
	base   uint32
	regs   []reg
	plain  bool
	con    *[4]uint32 // the load of a constant
}

type gp string // R0 to R13

// A function being emitted, cur, uses R14 for what is short-lived and R15 for the constants.
type function struct {
	name, signature, doc string
	params               map[string]param
	list                 []inst
	regs                 reg
	gps                  int
	kept                 map[reg]bool
	u                    int // vectors in work together
}

type param struct {
	offset int
	result bool
}

var (
	functions []*function
	cur       *function
)

// text starts a function.
func text(name, signature, doc string) {
	cur = &function{name: name, signature: signature, doc: doc, params: map[string]param{}, kept: map[reg]bool{}, u: 1}
	functions = append(functions, cur)
	args, results, _ := strings.Cut(strings.TrimPrefix(signature, "("), ")")
	at := cur.place(args, 0, false)
	results = strings.Trim(results, " ()")
	if results != "" && !strings.Contains(results, " ") {
		results = "ret " + results
	}
	at = cur.place(results, (at+7)&^7, true)
	plain(fmt.Sprintf("TEXT ·%s(SB), NOSPLIT, $0-%d", name, at))
}

// place lays out parameters as ABI0 does, from offset at on.
func (f *function) place(list string, at int, result bool) int {
	var names []string
	for _, p := range strings.Split(list, ", ") {
		if p == "" {
			continue
		}
		name, typ, typed := strings.Cut(p, " ")
		names = append(names, name)
		if !typed {
			continue
		}
		size := 8
		if typ == "float32" || typ == "uint32" {
			size = 4
		}
		at = (at + size - 1) &^ (size - 1)
		for _, n := range names {
			f.params[n] = param{at, result}
			at += size
		}
		names = nil
	}
	return at
}

func arg(name string) string {
	p, ok := cur.params[name]
	if !ok {
		panic(cur.name + ": no parameter " + name)
	}
	return fmt.Sprintf("%s+%d(FP)", name, p.offset)
}

func emit(in inst) { cur.list = append(cur.list, in) }

// plain emits a line of Go's assembler.
func plain(format string, regs ...reg) { emit(inst{format: format, regs: regs, plain: true}) }

func label(name string) { plain(name + ":") }

func ret() { plain("RET") }

func newGP() gp {
	if cur.gps > 13 {
		panic(cur.name + ": too many general registers")
	}
	cur.gps++
	return gp(fmt.Sprintf("R%d", cur.gps-1))
}

func (r gp) number() uint32 {
	var n uint32
	fmt.Sscanf(string(r), "R%d", &n)
	return n
}

// load64 loads a parameter of eight bytes, load32 one of four.
func load64(name string) gp { return loadParam("MOVD", name) }
func load32(name string) gp { return loadParam("MOVWU", name) }

func loadParam(mov, name string) gp {
	r := newGP()
	plain(fmt.Sprintf("%s %s, %s", mov, arg(name), r))
	return r
}

// fresh is a new value, freshOne one in a single register, keep a value for the whole function.
func fresh() vec { return freshOf(cur.u) }

func freshOne() vec { return freshOf(1) }

func freshOf(n int) vec {
	v := make(vec, n)
	for i := range v {
		v[i] = cur.regs
		cur.regs++
	}
	return v
}

func keep(v vec) vec {
	for _, r := range v {
		cur.kept[r] = true
	}
	return v
}

// ------------------------------------------------------------------ constants

var constants [][4]uint32

func offsetOf(c [4]uint32) int {
	i := slices.Index(constants, c)
	if i < 0 {
		i = len(constants)
		constants = append(constants, c)
	}
	return 16 * i
}

func writeConstants(b *bytes.Buffer) {
	fmt.Fprintln(b)
	for i, c := range constants {
		for j, w := range c {
			fmt.Fprintf(b, "DATA lanes<>+%d(SB)/4, $0x%08x\n", 16*i+4*j, w)
		}
	}
	fmt.Fprintf(b, "GLOBL lanes<>(SB), RODATA|NOPTR, $%d\n", 16*len(constants))
}

// words is a constant for reading: it may turn out to be in a register of its own.
func words(c [4]uint32) vec {
	v := freshOne()
	emit(inst{regs: v, con: &c})
	return v
}

func bits(u uint32) vec { return words([4]uint32{u, u, u, u}) }

func con(x float64) vec { return bits(math.Float32bits(float32(x))) }

// addend is a constant in registers of its own, to which something will be added: loads
// cost the vector units nothing, copies would.
func addend(x float64) vec {
	v := fresh()
	u := math.Float32bits(float32(x))
	at := offsetOf([4]uint32{u, u, u, u})
	for _, r := range v {
		emit(loadConstant(r, at))
	}
	return v
}

func loadConstant(r reg, at int) inst {
	return memory("ldr q%d", 0x3dc00000, 16, r, "R15", at)
}

// ----------------------------------------------------------------- allocation

// hoist puts the n constants that are read most into registers for the whole function.
func (f *function) hoist(n int) (list []inst, kept map[reg]bool) {
	count := map[[4]uint32]int{}
	for _, in := range f.list {
		if in.con != nil {
			count[*in.con]++
		}
	}
	all := slices.SortedFunc(maps.Keys(count), func(a, b [4]uint32) int {
		return cmp.Or(count[b]-count[a], slices.Compare(a[:], b[:]))
	})
	kept = maps.Clone(f.kept)
	home, same := map[[4]uint32]reg{}, map[reg]reg{}
	for i, c := range all[:n] {
		home[c] = f.regs + reg(i)
		kept[home[c]] = true
	}
	list = append(list, f.list[0])
	if slices.ContainsFunc(f.list, func(in inst) bool { return in.con != nil || strings.Contains(in.format, "[x15") }) {
		list = append(list, inst{format: "MOVD $lanes<>(SB), R15", plain: true})
	}
	for _, c := range all[:n] {
		list = append(list, loadConstant(home[c], offsetOf(c)))
	}
	for _, in := range f.list[1:] {
		if in.con != nil {
			if h, ok := home[*in.con]; ok {
				same[in.regs[0]] = h
				continue
			}
			in = loadConstant(in.regs[0], offsetOf(*in.con))
		}
		regs := slices.Clone(in.regs)
		for i, r := range regs {
			if h, ok := same[r]; ok {
				regs[i] = h
			}
		}
		in.regs = regs
		list = append(list, in)
	}
	return list, kept
}

// allocate gives each virtual register one of 32, in order of first use.
func allocate(list []inst, kept map[reg]bool) (home map[reg]uint32, ok bool) {
	last := map[reg]int{}
	for i, in := range list {
		for _, r := range in.regs {
			last[r] = i
			if kept[r] {
				last[r] = len(list)
			}
		}
	}
	home = map[reg]uint32{}
	var free []uint32
	for i := range uint32(32) {
		free = append(free, i)
	}
	for i, in := range list {
		var begins []reg
		for _, r := range in.regs {
			if _, ok := home[r]; !ok {
				begins = append(begins, r)
			} else if last[r] == i {
				if !slices.Contains(free, home[r]) {
					free = append(free, home[r])
				}
			}
		}
		for _, r := range begins {
			if _, ok := home[r]; ok {
				continue
			}
			if len(free) == 0 {
				return nil, false
			}
			home[r], free = free[0], free[1:]
			if last[r] == i { // a result that nothing reads
				free = append(free, home[r])
			}
		}
	}
	return home, true
}

// write allocates registers, with as many constants in them as there is room for, and prints
// the function.
func (f *function) write(b *bytes.Buffer) {
	n := map[[4]uint32]bool{}
	for _, in := range f.list {
		if in.con != nil {
			n[*in.con] = true
		}
	}
	for k := len(n); k >= 0; k-- {
		list, kept := f.hoist(k)
		if home, ok := allocate(list, kept); ok {
			f.print(b, list, home)
			return
		}
	}
	panic(f.name + ": more than 32 vector registers")
}

func (f *function) print(b *bytes.Buffer, list []inst, home map[reg]uint32) {
	fmt.Fprintf(b, "\n// func %s%s\n", f.name, f.signature)
	for i, in := range list {
		args := make([]any, len(in.regs))
		word := in.base
		for i, r := range in.regs {
			args[i] = home[r]
			word |= home[r] << []int{0, 5, 16}[i]
		}
		line := fmt.Sprintf(in.format, args[:strings.Count(in.format, "%d")]...)
		switch {
		case in.plain && strings.HasSuffix(line, ":"):
			fmt.Fprintf(b, "\n%s%s\n", countOf(list[i:]), line)
		case in.plain && strings.HasPrefix(line, "TEXT"):
			fmt.Fprintln(b, line)
		case in.plain:
			fmt.Fprintf(b, "\t%s\n", line)
		default:
			fmt.Fprintf(b, "\tWORD $0x%08x // %s\n", word, line)
		}
	}
}

// countOf says what is in the loop that starts with a label, if one does.
func countOf(list []inst) string {
	name := strings.TrimSuffix(list[0].format, ":")
	var arithmetic, moves, other int
	for _, in := range list[1:] {
		switch {
		case in.plain && strings.HasSuffix(in.format, ":") && !strings.HasPrefix(in.format, "no"):
			return ""
		case in.plain && strings.HasSuffix(in.format, ":"):
		case in.plain:
			other++
			if strings.HasPrefix(in.format, "B") && strings.HasSuffix(in.format, " "+name) {
				return fmt.Sprintf("// a turn: %d vector instructions, %d loads and stores, %d others\n", arithmetic, moves, other)
			}
		case strings.Contains(in.format, "["):
			moves++
		default:
			arithmetic++
		}
	}
	return ""
}
