package recipe

import "strings"

// Words are the step's command line, without the program's name. isBool says whether a
// flag takes no value when it is true.
func (s *Step) Words(isBool func(flag string) bool) []string {
	w := strings.Fields(s.Command.Value)
	for _, a := range s.Args {
		w = append(w, a.Value)
	}
	for _, f := range s.Flags {
		for _, v := range f.Values {
			name := "--" + f.Name.Value
			switch {
			case isBool(f.Name.Value) && v.Value == "true":
				w = append(w, name)
			case isBool(f.Name.Value), v.Value == "", v.Value[0] == '-':
				w = append(w, name+"="+v.Value)
			default:
				w = append(w, name, v.Value)
			}
		}
	}
	return w
}

// plain are the characters that no shell gives a meaning to within a word.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./,:@%="

// Quote writes a word as a POSIX shell reads it.
func Quote(word string) string {
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// ShellLine writes words as a command line of a POSIX shell.
func ShellLine(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = Quote(w)
	}
	return strings.Join(q, " ")
}
