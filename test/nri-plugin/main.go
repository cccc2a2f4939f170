// A plugin over containerd's own stub, for tests: it writes down what it hears, one JSON object a line, and does what
// its rules say. The rules are a file that is read anew at each event, so that a test changes them as it goes.
//
// Started by hand it takes flags; started by a runtime, the rules' path is its configuration.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// What to do, event by event.
type rules struct {
	// Events to subscribe to; none means all.
	Events []string `json:"events"`
	// Where to write what is heard.
	Log string `json:"log"`
	// Events to refuse, and the words for it.
	Fail map[string]string `json:"fail"`
	// Events to be slow about, in milliseconds.
	SlowMs map[string]int `json:"slow_ms"`
	// Only containers of this name are touched; empty means all.
	Container string `json:"container"`
	// A ContainerAdjustment.
	Adjust json.RawMessage `json:"adjust"`
	// ContainerUpdates for the event of this name.
	Updates map[string][]json.RawMessage `json:"updates"`
	// Why no container may be changed by others; empty: it may.
	Reject string `json:"reject"`
}

type plugin struct {
	name string
	path string
	stub stub.Stub
}

func (p *plugin) rules() rules {
	var all rules
	text, err := os.ReadFile(p.path)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		panic(err)
	}
	return all
}

// Writes down an event and does what the rules say of any.
func (p *plugin) hear(event string, pod *api.PodSandbox, container *api.Container, more map[string]any) error {
	all := p.rules()
	line := map[string]any{"event": event, "plugin": p.name, "pod": pod.GetName(), "pod_id": pod.GetId(),
		"container": container.GetName(), "container_id": container.GetId(), "at_ns": time.Now().UnixNano()}
	for key, value := range more {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(all.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(append(text, '\n')); err != nil {
		return err
	}
	time.Sleep(time.Duration(all.SlowMs[event]) * time.Millisecond)
	if words, ok := all.Fail[event]; ok {
		return errors.New(words)
	}
	return nil
}

func plain(message proto.Message) json.RawMessage {
	text, err := protojson.Marshal(message)
	if err != nil {
		panic(err)
	}
	return text
}

func (p *plugin) updates(event string) ([]*api.ContainerUpdate, error) {
	var all []*api.ContainerUpdate
	for _, text := range p.rules().Updates[event] {
		update := &api.ContainerUpdate{}
		if err := protojson.Unmarshal(text, update); err != nil {
			return nil, err
		}
		all = append(all, update)
	}
	return all, nil
}

func (p *plugin) Configure(_ context.Context, config, runtime, version string) (stub.EventMask, error) {
	if config != "" {
		p.path = strings.TrimSpace(config)
	}
	if err := p.hear("Configure", nil, nil, map[string]any{"runtime": runtime, "version": version}); err != nil {
		return 0, err
	}
	return api.ParseEventMask(p.rules().Events...)
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	podIDs, containerIDs := []string{}, []string{}
	for _, pod := range pods {
		podIDs = append(podIDs, pod.GetId())
	}
	for _, container := range containers {
		containerIDs = append(containerIDs, container.GetId())
	}
	told := map[string]any{"pods": podIDs, "containers": containerIDs}
	if err := p.hear("Synchronize", nil, nil, told); err != nil {
		return nil, err
	}
	return p.updates("Synchronize")
}

func (p *plugin) Shutdown(context.Context) {
	_ = p.hear("Shutdown", nil, nil, nil)
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.hear("RunPodSandbox", pod, nil, map[string]any{"message": plain(pod)})
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, overhead, resources *api.LinuxResources) error {
	told := map[string]any{"overhead": plain(overhead), "resources": plain(resources)}
	return p.hear("UpdatePodSandbox", pod, nil, told)
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.hear("PostUpdatePodSandbox", pod, nil, map[string]any{"message": plain(pod)})
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.hear("StopPodSandbox", pod, nil, nil)
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.hear("RemovePodSandbox", pod, nil, nil)
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	told := map[string]any{"message": plain(container)}
	if err := p.hear("CreateContainer", pod, container, told); err != nil {
		return nil, nil, err
	}
	all := p.rules()
	if all.Container != "" && all.Container != container.GetName() {
		return nil, nil, nil
	}
	adjust := &api.ContainerAdjustment{}
	if all.Adjust != nil {
		if err := protojson.Unmarshal(all.Adjust, adjust); err != nil {
			return nil, nil, err
		}
	}
	updates, err := p.updates("CreateContainer")
	return adjust, updates, err
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.hear("PostCreateContainer", pod, container, nil)
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.hear("StartContainer", pod, container, nil)
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.hear("PostStartContainer", pod, container, map[string]any{"message": plain(container)})
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container, resources *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	told := map[string]any{"resources": plain(resources)}
	if err := p.hear("UpdateContainer", pod, container, told); err != nil {
		return nil, err
	}
	return p.updates("UpdateContainer")
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.hear("PostUpdateContainer", pod, container, map[string]any{"message": plain(container)})
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) ([]*api.ContainerUpdate, error) {
	told := map[string]any{"exit_code": container.GetExitCode()}
	if err := p.hear("StopContainer", pod, container, told); err != nil {
		return nil, err
	}
	return p.updates("StopContainer")
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	return p.hear("RemoveContainer", pod, container, nil)
}

func (p *plugin) ValidateContainerAdjustment(_ context.Context, request *api.ValidateContainerAdjustmentRequest) error {
	told := map[string]any{"owners": plain(request.GetOwners()), "adjust": plain(request.GetAdjust())}
	if err := p.hear("ValidateContainerAdjustment", request.GetPod(), request.GetContainer(), told); err != nil {
		return err
	}
	if reason := p.rules().Reject; reason != "" {
		return errors.New(reason)
	}
	return nil
}

// Asks for updates that nobody asked about, whenever a test puts some beside the rules.
func (p *plugin) ask() {
	for {
		time.Sleep(20 * time.Millisecond)
		text, err := os.ReadFile(p.path + ".ask")
		if err != nil {
			continue
		}
		os.Remove(p.path + ".ask")
		request := &api.UpdateContainersRequest{}
		if err := protojson.Unmarshal(text, request); err != nil {
			panic(err)
		}
		failed, err := p.stub.UpdateContainers(request.GetUpdate())
		told := map[string]any{"failed": len(failed), "error": ""}
		if err != nil {
			told["error"] = err.Error()
		}
		_ = p.hear("Asked", nil, nil, told)
	}
}

func main() {
	name := flag.String("name", "", "the plugin's name")
	index := flag.String("idx", "", "two digits")
	socket := flag.String("socket", "", "the runtime's socket")
	path := flag.String("rules", "", "the file with the rules")
	flag.Parse()
	p := &plugin{name: *name + os.Getenv(api.PluginNameEnvVar), path: *path}
	var options []stub.Option
	if *name != "" {
		options = append(options, stub.WithPluginName(*name), stub.WithPluginIdx(*index), stub.WithSocketPath(*socket))
	}
	var err error
	if p.stub, err = stub.New(p, options...); err != nil {
		panic(err)
	}
	go p.ask()
	if err := p.stub.Run(context.Background()); err != nil {
		os.Exit(1)
	}
}
