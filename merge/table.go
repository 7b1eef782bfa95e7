package merge

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// Undo files and journals start and end with eight bytes that name them. Before
// the end there is a JSON text that says what lies where, its length (8 bytes,
// little-endian) and its CRC-32C (4 bytes); it is written last, so that a file
// that is not complete has none.
const (
	magicLen  = 8
	tableTail = 8 + 4 + magicLen
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeTable is the end of a file.
func encodeTable(magic string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := crc32.Checksum(b, castagnoli)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(b)))
	b = binary.LittleEndian.AppendUint32(b, sum)
	return append(b, magic...), nil
}

// readTable reads the JSON text of a file of some size into v.
func readTable(f io.ReaderAt, size int64, magic string, v any, bad func(reason string) error) error {
	if size < tableTail+magicLen {
		return bad("it is too short")
	}
	end := make([]byte, tableTail)
	if _, err := f.ReadAt(end, size-tableTail); err != nil {
		return err
	}
	start := make([]byte, magicLen)
	if _, err := f.ReadAt(start, 0); err != nil {
		return err
	}
	if string(end[12:]) != magic || string(start) != magic {
		return bad("it is of another kind, or truncated")
	}
	n := binary.LittleEndian.Uint64(end)
	if n > uint64(size-tableTail-magicLen) {
		return bad("its table is longer than the file")
	}
	text := make([]byte, n)
	if _, err := f.ReadAt(text, size-tableTail-int64(n)); err != nil {
		return err
	}
	if crc32.Checksum(text, castagnoli) != binary.LittleEndian.Uint32(end[8:]) {
		return bad("its table is damaged")
	}
	if err := json.Unmarshal(text, v); err != nil {
		return bad("its table is damaged: " + err.Error())
	}
	return nil
}

// malformed makes the error of a file that is not what it should be.
func malformed(path, hint string) func(reason string) error {
	return func(reason string) error {
		return &formats.Error{Path: path, Reason: reason, Hint: hint, Err: formats.ErrMalformed}
	}
}
