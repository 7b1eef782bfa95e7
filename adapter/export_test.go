package adapter

// DecodePEFT reads a PEFT configuration.
func DecodePEFT(b []byte) (Config, error) {
	o, err := parseObject(b)
	if err != nil {
		return Config{}, err
	}
	return decodePEFT(o, "LORA")
}

// Factorization is PEFT's split of a dimension.
var Factorization = factorization

// CrossRead compares a tensor file with a's tensors.
func CrossRead(path string, a *Adapter) error { return crossRead(path, a.fileTensors()) }
