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
