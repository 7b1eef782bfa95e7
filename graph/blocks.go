package graph

// BlockPart is a part of the block-diagonal matrix of [BlockMatMul] that
// multiplies adjacent columns: columns [Row, Row+Rows) of the side without
// shuffle and [Col, Col+Cols) of the other, by the matrix (Rows, Cols) that starts
// at element At of row Block of w and has rows of Ld elements.
type BlockPart struct{ Block, Row, Rows, Col, Cols, At, Ld int }

// BlockParts cuts a block-diagonal matrix (rows, cols): one part a block, or with
// shuffle one for every pair of blocks. The parts of a block follow each other.
func BlockParts(blocks, rows, cols int, shuffle bool) []BlockPart {
	a, b := rows/blocks, cols/blocks
	var ps []BlockPart
	for i := range blocks {
		if !shuffle {
			ps = append(ps, BlockPart{Block: i, Row: i * a, Rows: a, Col: i * b, Cols: b, Ld: b})
			continue
		}
		q := b / blocks
		for j := range blocks {
			ps = append(ps, BlockPart{Block: i, Row: i * a, Rows: a, Col: j*b + i*q, Cols: q, At: j * q, Ld: b})
		}
	}
	return ps
}
