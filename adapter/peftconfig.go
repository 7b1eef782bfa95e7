package adapter

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// Keys of PEFT 0.21.2's LoraConfig, LoKrConfig and GraloraConfig, by what they
// mean here.
var (
	// peftUsed change the update, the modules or training, and are read.
	peftUsed = []string{
		"peft_type", "base_model_name_or_path", "task_type", "r", "target_modules", "exclude_modules",
		"modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
	}
	loraUsed    = []string{"lora_alpha", "lora_dropout", "use_rslora", "bias", "init_lora_weights", "fan_in_fan_out", "use_dora"}
	lokrUsed    = []string{"alpha", "decompose_both", "decompose_factor"}
	graloraUsed = []string{"alpha", "hybrid_r", "gralora_k", "gralora_dropout", "bias", "fan_in_fan_out", "init_weights"}
	// peftInert say how training started or ran, or only matter to PEFT's own
	// runtime; the saved tensors already hold their effect. fan_in_fan_out
	// says how the base stores W, which the base itself tells.
	peftInert = []string{
		"auto_mapping", "inference_mode", "peft_version", "revision", "runtime_config",
	}
	loraInert = []string{
		"loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "megatron_core", "qalora_group_size",
	}
	lokrInert = []string{"rank_dropout", "module_dropout", "rank_dropout_scale", "use_effective_conv2d", "init_weights"}
	// loraRefused change what the adapter computes in ways that are not
	// supported; they may stand there switched off.
	loraRefused = map[string]string{
		"use_qalora":              "QALoRA belongs to a quantised base",
		"alora_invocation_tokens": "an activated LoRA applies to some tokens only",
		"layer_replication":       "the adapter belongs to a model with repeated layers",
		"target_parameters":       "target_parameters adapts tensors that are no linear layers",
		"trainable_token_indices": "trained token embeddings are not supported",
		"lora_bias":               "a bias in the update is not supported",
		"use_bdlora":              "block-diagonal LoRA is not supported",
		"kasa_config":             "KaSA changes the base weights",
		"monteclora_config":       "MonteCLoRA is not supported",
		"arrow_config":            "arrow routes between several adapters",
		"megatron_config":         "the adapter belongs to a Megatron model",
		"ensure_weight_tying":     "tied adapters are not supported",
	}
	// inits that train against a changed base: the tensors alone are not ΔW.
	rebasedInits = []string{"pissa", "olora", "corda", "loftq", "lora_ga", "mica"}
)

// decodePEFT reads a PEFT configuration of type LORA, LOKR or GRALORA.
func decodePEFT(o object, peftType string) (Config, error) {
	known := slices.Concat(peftUsed, peftInert, loraUsed, loraInert)
	switch peftType {
	case "LOKR":
		known = slices.Concat(peftUsed, peftInert, lokrUsed, lokrInert)
	case "GRALORA":
		known = slices.Concat(peftUsed, peftInert, graloraUsed)
	}
	for _, m := range o {
		why, refused := loraRefused[m.key]
		switch {
		case isOff(m.value):
		case refused:
			return Config{}, fmt.Errorf("key %q is %s: %s", m.key, m.value, why)
		case !slices.Contains(known, m.key):
			return Config{}, fmt.Errorf("unknown key %q%s", m.key, suggest.DidYouMean(m.key, known))
		}
	}
	c := Config{Settings: Settings{Terms: 1, Scaling: ScaleLoRA, Init: InitZero, Rank: Rank{8, 1}, Alpha: 8}}
	if peftType == "GRALORA" { // PEFT's defaults
		c.Method, c.Rank.R1, c.Terms, c.Alpha = MethodGraLoRA, 32, 2, 64
	}
	for key, dst := range map[string]any{
		"base_model_name_or_path": &c.BaseModel, "task_type": &c.TaskType, "r": &c.Rank.R1,
		"modules_to_save": &c.ModulesToSave, "lora_alpha": &c.Alpha, "alpha": &c.Alpha, "lora_dropout": &c.Dropout,
		"gralora_dropout": &c.Dropout, "gralora_k": &c.Terms, "hybrid_r": &c.HybridRank,
	} {
		if err := o.decode(key, dst); err != nil {
			return c, err
		}
	}
	if err := decodePEFTTargets(o, &c.Targets); err != nil {
		return c, err
	}
	if err := decodePatterns(o, &c); err != nil {
		return c, err
	}
	switch peftType {
	case "GRALORA":
		return c, decodeBias(o)
	case "LOKR":
		c.Method = MethodLoRA
		return c, nil
	}
	c.Method = MethodLoRA
	return c, decodeLoRAOptions(o, &c)
}

// decodeBias refuses trained biases.
func decodeBias(o object) error {
	var bias string
	if err := o.decode("bias", &bias); err != nil {
		return err
	}
	if bias != "" && bias != "none" {
		return fmt.Errorf("key \"bias\" is %q: trained biases are not supported; merge the adapter with PEFT first", bias)
	}
	return nil
}

func decodeLoRAOptions(o object, c *Config) error {
	var rslora, dora bool
	var init string
	if err := o.decode("use_rslora", &rslora); err != nil {
		return err
	}
	if rslora {
		c.Scaling = ScaleRSLoRA
	}
	if err := o.decode("use_dora", &dora); err != nil {
		return err
	}
	if dora {
		c.Method = MethodDoRA
	}
	if err := decodeBias(o); err != nil {
		return err
	}
	if v, ok := o.get("init_lora_weights"); ok && len(v) > 0 && v[0] == '"' {
		if err := o.decode("init_lora_weights", &init); err != nil {
			return err
		}
	}
	for _, r := range rebasedInits {
		if strings.HasPrefix(strings.ToLower(init), r) {
			return fmt.Errorf("key \"init_lora_weights\" is %q: the adapter belongs to a changed base model; save it with path_initial_model_for_weight_conversion in PEFT, which makes it an ordinary LoRA", init)
		}
	}
	return nil
}

// decodePEFTTargets reads targets, exclusions and layers.
func decodePEFTTargets(o object, t *Targets) error {
	if o.off("target_modules") {
		return fmt.Errorf("key \"target_modules\" is missing; PEFT would choose by the model's type: add the modules that the adapter's tensors name")
	}
	if err := decodeTargets(o, t); err != nil {
		return err
	}
	var err error
	if t.Exclude, t.ExcludeRegex, err = o.names("exclude_modules"); err != nil {
		return err
	}
	list, one, err := o.names("layers_pattern")
	if err != nil {
		return err
	}
	if one != "" {
		list = []string{one}
	}
	v, ok := o.get("layers_to_transform")
	if !ok || isOff(v) && string(v) != "0" {
		return nil
	}
	var layers []int
	if v[0] == '[' {
		err = json.Unmarshal(v, &layers)
	} else {
		layers = []int{0}
		err = json.Unmarshal(v, &layers[0])
	}
	if err != nil {
		return fmt.Errorf("key \"layers_to_transform\": %w", err)
	}
	if len(t.Modules) == 0 {
		return fmt.Errorf("key \"layers_to_transform\" goes with a list of target_modules only; PEFT ignores or refuses it here")
	}
	t.LayersPattern = list
	for _, n := range layers {
		t.Layers = append(t.Layers, LayerRange{n, n})
	}
	return nil
}

// decodePatterns reads rank_pattern and alpha_pattern.
func decodePatterns(o object, c *Config) error {
	for _, key := range []string{"rank_pattern", "alpha_pattern"} {
		var patterns rawObject
		if err := o.decode(key, &patterns); err != nil {
			return err
		}
		for _, m := range patterns {
			var v float64
			if err := json.Unmarshal(m.value, &v); err != nil {
				return fmt.Errorf("%s: %q: %w", key, m.key, err)
			}
			if key == "alpha_pattern" {
				c.Overrides = append(c.Overrides, Override{Pattern: m.key, Alpha: v})
				continue
			}
			if v < 1 || v != math.Trunc(v) || v > maxSize {
				return fmt.Errorf("%s: %q: rank %v", key, m.key, v)
			}
			c.Overrides = append(c.Overrides, Override{Pattern: m.key, Rank: Rank{int(v), 1}})
		}
	}
	return nil
}

// peftHead starts a PEFT configuration.
func peftHead(a *Adapter, peftType string) object {
	var o object
	o.set("peft_type", peftType)
	o.set("auto_mapping", nil)
	o.set("base_model_name_or_path", stringOrNil(a.BaseModel))
	o.set("revision", nil)
	o.set("task_type", stringOrNil(a.TaskType))
	o.set("inference_mode", true)
	o.set("modules_to_save", listOrNil(a.ModulesToSave))
	return o
}

// encodeGraLoRA is adapter_config.json of a GraLoRA adapter, for PEFT, whose scale
// is alpha/(r + hybrid_r): any other rule goes into alpha.
func (a *Adapter) encodeGraLoRA() ([]byte, error) {
	c := &a.Config
	o := peftHead(a, "GRALORA")
	o.set("r", c.Rank.R1)
	o.set("hybrid_r", c.HybridRank)
	o.set("gralora_k", c.Terms)
	if c.Scaling == ScaleLoRA {
		o.set("alpha", c.Alpha)
	} else {
		o.set("alpha", c.Scale()*float64(c.Rank.R1+c.HybridRank))
	}
	o.set("gralora_dropout", c.Dropout)
	o.set("bias", "none")
	o.set("fan_in_fan_out", a.inOut())
	o.set("init_weights", true)
	a.peftTargets(&o, false)
	return o.encode()
}

// inOut reports whether the base stores its weights (in, out), as GPT-2's Conv1D.
func (a *Adapter) inOut() bool {
	return !slices.ContainsFunc(a.Modules, func(m Module) bool { return m.Site.Transposed })
}

// encodeLoRA is adapter_config.json of a LoRA or DoRA adapter, for PEFT.
func (a *Adapter) encodeLoRA() ([]byte, error) {
	a = a.plain()
	c := &a.Config
	o := peftHead(a, "LORA")
	o.set("r", c.Rank.R1)
	o.set("lora_alpha", c.Alpha)
	o.set("lora_dropout", c.Dropout)
	o.set("use_rslora", c.Scaling == ScaleRSLoRA)
	o.set("use_dora", c.Method == MethodDoRA)
	o.set("bias", "none")
	o.set("fan_in_fan_out", a.inOut())
	o.set("init_lora_weights", true)
	a.peftTargets(&o, true)
	var ranks, alphas object
	for _, v := range c.Overrides {
		if _, ok := ranks.get(v.Pattern); !ok && v.Rank != (Rank{}) {
			ranks.set(v.Pattern, v.Rank.R1)
		}
		if _, ok := alphas.get(v.Pattern); !ok && v.Alpha != 0 {
			alphas.set(v.Pattern, v.Alpha)
		}
	}
	o.set("rank_pattern", ranks)
	o.set("alpha_pattern", alphas)
	return o.encode()
}

// peftTargets writes the targets. What PEFT would read otherwise (all-linear
// without its idea of the head, layers with a regular expression, both kinds
// of exclusion) is written as the list of modules that it comes to; so are
// exclusions where the configuration has no key for them.
func (a *Adapter) peftTargets(o *object, exclusions bool) {
	t := &a.Targets
	excluded := len(t.Exclude) > 0 || t.ExcludeRegex != ""
	if t.AllLinear || t.Regex != "" && len(t.Layers) > 0 || len(t.Exclude) > 0 && t.ExcludeRegex != "" || excluded && !exclusions {
		modules := make([]string, len(a.Modules))
		for i, m := range a.Modules {
			modules[i] = m.Module
		}
		o.set("target_modules", modules)
		if exclusions {
			o.set("exclude_modules", nil)
		}
		o.set("layers_to_transform", nil)
		o.set("layers_pattern", nil)
		return
	}
	if t.Regex != "" {
		o.set("target_modules", t.Regex)
	} else {
		o.set("target_modules", t.Modules)
	}
	switch {
	case !exclusions:
	case t.ExcludeRegex != "":
		o.set("exclude_modules", t.ExcludeRegex)
	default:
		o.set("exclude_modules", listOrNil(t.Exclude))
	}
	if len(t.Layers) > 0 {
		o.set("layers_to_transform", t.Layers.numbers())
	} else {
		o.set("layers_to_transform", nil)
	}
	o.set("layers_pattern", listOrNil(t.LayersPattern))
}
