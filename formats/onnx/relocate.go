package onnx

import "encoding/binary"

// message is a kind of message on the way from a model to its external data.
type message int

const (
	modelMessage message = iota
	trainingMessage
	functionMessage
	graphMessage
	nodeMessage
	attributeMessage
	sparseMessage
	tensorMessage
	externalEntry
)

// inside gives the fields of each message that may hold external data, by number
// (onnx.proto3).
var inside = [...]map[int]message{
	modelMessage:     {7: graphMessage, 20: trainingMessage, 25: functionMessage},
	trainingMessage:  {1: graphMessage, 2: graphMessage},
	functionMessage:  {7: nodeMessage, 11: attributeMessage},
	graphMessage:     {graphNode: nodeMessage, graphInitializer: tensorMessage, 15: sparseMessage},
	nodeMessage:      {5: attributeMessage},
	attributeMessage: {5: tensorMessage, 6: graphMessage, 10: tensorMessage, 11: graphMessage, 22: sparseMessage, 23: sparseMessage},
	sparseMessage:    {1: tensorMessage, 2: tensorMessage},
	tensorMessage:    {13: externalEntry},
}

// Relocate lays the model out as a file of the given name whose external data have
// other file names: names maps old locations to new ones, others stay. Every
// other byte is copied.
func (m *Model) Relocate(name string, names map[string]string) (*OutFile, error) {
	r := relocator{m.src, names}
	body, err := r.message(modelMessage, Span{0, m.Size})
	if err != nil {
		return nil, withPath(err, m.Path)
	}
	if body == nil {
		body = &OutFile{}
		body.add(r.copy(0, m.Size))
	}
	body.Name = name
	return body, nil
}

type relocator struct {
	src   *source
	names map[string]string
}

func (r *relocator) copy(from, to int64) Chunk { return Chunk{From: r.src.r, Off: from, N: to - from} }

// message rewrites a message, or returns nil where nothing in it changes.
func (r *relocator) message(kind message, sp Span) (*OutFile, error) {
	var out *OutFile
	at := sp.Offset
	err := r.src.fields(sp, func(f *field) error {
		child, ok := inside[kind][f.num]
		if !ok || f.wire != wireBytes {
			return nil
		}
		var body *OutFile
		var err error
		if child == externalEntry {
			body, err = r.entry(f)
		} else {
			body, err = r.message(child, f.val)
		}
		if err != nil || body == nil {
			return err
		}
		if out == nil {
			out = &OutFile{}
		}
		out.add(r.copy(at, f.record.Offset))
		out.add(Chunk{Bytes: binary.AppendUvarint(appendTag(nil, f.num, wireBytes), uint64(body.Size))})
		for _, c := range body.Chunks {
			out.add(c)
		}
		at = f.record.End()
		return nil
	})
	if err == nil && out != nil {
		out.add(r.copy(at, sp.End()))
	}
	return out, err
}

// entry rewrites an entry of external_data that is a location with a new name.
func (r *relocator) entry(f *field) (*OutFile, error) {
	kvs, err := r.src.kv(f, nil)
	if err != nil || len(kvs) != 1 || kvs[0].Key != "location" {
		return nil, err
	}
	name, ok := r.names[kvs[0].Value]
	if !ok {
		return nil, nil
	}
	out := &OutFile{}
	out.add(Chunk{Bytes: KV{"location", name}.encode()})
	return out, nil
}
