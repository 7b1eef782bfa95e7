package adapter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// member is one key of a JSON object.
type member struct {
	key   string
	value json.RawMessage
}

// object is a JSON object with its order kept: in rank_pattern the first match
// wins.
type object []member

// parseObject reads one JSON object. A key that stands twice is an error.
func parseObject(b []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		if err == nil {
			err = fmt.Errorf("want an object, found %v", t)
		}
		return nil, err
	}
	var o object
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := member{key: t.(string)} // the decoder allows nothing else here
		if err := d.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("key %q: %w", m.key, err)
		}
		if _, ok := o.get(m.key); ok {
			return nil, fmt.Errorf("key %q stands twice", m.key)
		}
		o = append(o, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("text after the object")
	}
	return o, nil
}

func (o object) get(key string) (json.RawMessage, bool) {
	i := slices.IndexFunc(o, func(m member) bool { return m.key == key })
	if i < 0 {
		return nil, false
	}
	return o[i].value, true
}

// off reports whether a value switches its option off: null, false, 0, "", [],
// {} or absent.
func (o object) off(key string) bool {
	v, ok := o.get(key)
	return !ok || isOff(v)
}

func isOff(v json.RawMessage) bool {
	switch string(bytes.TrimSpace(v)) {
	case "null", "false", "0", "0.0", `""`, "[]", "{}":
		return true
	}
	return false
}

// decode stores the value of key in dst; absent and null leave it as it is.
func (o object) decode(key string, dst any) error {
	v, ok := o.get(key)
	if !ok || string(v) == "null" {
		return nil
	}
	if err := json.Unmarshal(v, dst); err != nil {
		return fmt.Errorf("key %q: %w", key, err)
	}
	return nil
}

// names decodes null, a string, or a list of strings.
func (o object) names(key string) (list []string, one string, err error) {
	v, ok := o.get(key)
	switch {
	case !ok || string(v) == "null":
		return nil, "", nil
	case len(v) > 0 && v[0] == '"':
		return nil, one, o.decode(key, &one)
	}
	if err := o.decode(key, &list); err != nil {
		return nil, "", fmt.Errorf("%w: want a name or a list of names", err)
	}
	return list, "", nil
}

// set appends a member; v must be encodable.
func (o *object) set(key string, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("adapter: encoding %s: %v", key, err))
	}
	*o = append(*o, member{key, bytes.TrimSpace(b.Bytes())})
}

// MarshalJSON keeps the order.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		k, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, k...), ':'), m.value...)
	}
	return append(b, '}'), nil
}

// encode is the file form: indented, ending in a newline.
func (o object) encode() ([]byte, error) {
	raw, err := o.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// listOrNil makes empty lists null, as PEFT writes them.
func listOrNil(s []string) any {
	if len(s) == 0 {
		return nil
	}
	return s
}

func stringOrNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}
