package task

import (
	"fmt"
	"slices"
	"strings"
)

// ChatTemplate lays out a conversation as one text. Its zero value is ChatML.
type ChatTemplate struct {
	Name string
	// Turn has the place holders {role} and {content}; what follows {content} is
	// the end of a turn, which carries loss with an assistant's words.
	Turn string
	// Start precedes the first turn.
	Start string
	// Roles renames roles.
	Roles map[string]string
	// mark occurs in the Jinja template of tokenizers that use this layout.
	mark string
}

var chatTemplates = []ChatTemplate{
	{Name: "chatml", Turn: "<|im_start|>{role}\n{content}<|im_end|>\n", mark: "<|im_start|>"},
	{Name: "llama3", Turn: "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>", mark: "<|start_header_id|>"},
	{Name: "phi3", Turn: "<|{role}|>\n{content}<|end|>\n", mark: "<|end|>"},
	{Name: "zephyr", Turn: "<|{role}|>\n{content}</s>\n", mark: "<|assistant|>"},
	{Name: "gemma", Turn: "<start_of_turn>{role}\n{content}<end_of_turn>\n", Roles: map[string]string{"assistant": "model"}, mark: "<start_of_turn>"},
	{Name: "plain", Turn: "{role}: {content}\n"},
}

// ChatTemplateNames returns the names that LookupChatTemplate knows.
func ChatTemplateNames() []string {
	var out []string
	for _, t := range chatTemplates {
		out = append(out, t.Name)
	}
	return out
}

// LookupChatTemplate returns a template by name.
func LookupChatTemplate(name string) (ChatTemplate, error) {
	i := slices.IndexFunc(chatTemplates, func(t ChatTemplate) bool { return t.Name == name })
	if i < 0 {
		return ChatTemplate{}, fmt.Errorf("unknown chat template %q; known are %s", name, strings.Join(ChatTemplateNames(), ", "))
	}
	return chatTemplates[i], nil
}

// DetectChatTemplate recognises the layout that a tokenizer's Jinja template
// (chat_template in tokenizer_config.json) writes, by its markers.
func DetectChatTemplate(jinja string) (ChatTemplate, bool) {
	for _, t := range chatTemplates {
		if t.mark != "" && strings.Contains(jinja, t.mark) {
			return t, true
		}
	}
	return ChatTemplate{}, false
}

// segments lays a conversation out. What the assistant says and the end of its
// turn carry loss; headers and other roles do not.
func (t ChatTemplate) segments(messages []message) ([]Segment, error) {
	if t.Turn == "" {
		t = chatTemplates[0]
	}
	head, tail, ok := strings.Cut(t.Turn, "{content}")
	if !ok || !strings.Contains(head, "{role}") {
		return nil, fmt.Errorf("chat template %q lacks {role} or {content}", t.Name)
	}
	var out []Segment
	add := func(s string, loss bool) {
		if n := len(out); n > 0 && out[n-1].Loss == loss {
			out[n-1].Text += s
		} else if s != "" {
			out = append(out, Segment{Text: s, Loss: loss})
		}
	}
	add(t.Start, false)
	spoke := false
	for i, m := range messages {
		if m.Role == "" {
			return nil, fmt.Errorf("message %d has no role", i+1)
		}
		loss := m.Role == "assistant"
		spoke = spoke || loss
		role := m.Role
		if other, ok := t.Roles[role]; ok {
			role = other
		}
		add(strings.ReplaceAll(head, "{role}", role), false)
		add(m.Content+strings.TrimRight(tail, "\n"), loss)
		add(tail[len(strings.TrimRight(tail, "\n")):], false)
	}
	if !spoke {
		return nil, fmt.Errorf("no message of the assistant: nothing to learn")
	}
	return out, nil
}
