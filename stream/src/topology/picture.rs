//! The topology as a picture: Graphviz and Mermaid.

use std::fmt::Write;

use super::describe::{NodeRole, TopologyDescription};

/// Writing to a String does not fail, so the results of `write!` are dropped here.
pub(super) fn dot(description: &TopologyDescription) -> String {
    let mut out = String::from("digraph topology {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    let mut topics = Vec::new();
    for part in &description.subtopologies {
        let _ = writeln!(out, "  subgraph cluster_{} {{\n    label=\"Sub-topology {}\";", part.id, part.id);
        for node in &part.nodes {
            let _ = writeln!(out, "    \"{}\";", node.name);
            if let NodeRole::Processor { stores } = &node.role {
                for store in stores {
                    let _ = writeln!(out, "    \"store {store}\" [label=\"{store}\", shape=cylinder];");
                    let _ = writeln!(out, "    \"{}\" -> \"store {store}\" [dir=both, style=dashed];", node.name);
                }
            }
        }
        for node in &part.nodes {
            for successor in &node.successors {
                let _ = writeln!(out, "    \"{}\" -> \"{successor}\";", node.name);
            }
        }
        out.push_str("  }\n");
        for node in &part.nodes {
            match &node.role {
                NodeRole::Source { topics: read, .. } => {
                    for topic in read {
                        topics.push(topic.clone());
                        let _ = writeln!(out, "  \"topic {topic}\" -> \"{}\";", node.name);
                    }
                }
                NodeRole::Sink { topic, .. } => {
                    topics.push(topic.clone());
                    let _ = writeln!(out, "  \"{}\" -> \"topic {topic}\";", node.name);
                }
                NodeRole::Processor { .. } => {}
            }
        }
    }
    topics.sort();
    topics.dedup();
    for topic in topics {
        let _ = writeln!(out, "  \"topic {topic}\" [label=\"{topic}\", shape=cds];");
    }
    out.push_str("}\n");
    out
}

/// Node ids are numbers, because Mermaid gives words like `end` a meaning.
pub(super) fn mermaid(description: &TopologyDescription) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut topics: Vec<String> = Vec::new();
    let topic_id = |topic: &str, topics: &mut Vec<String>| match topics.iter().position(|known| known == topic) {
        Some(at) => at,
        None => {
            topics.push(topic.to_owned());
            topics.len() - 1
        }
    };
    let mut edges = String::new();
    for part in &description.subtopologies {
        let id = |name: &str| {
            let at = part.nodes.iter().position(|node| node.name == name).unwrap_or_default();
            format!("n{}_{at}", part.id)
        };
        let _ = writeln!(out, "  subgraph s{}[\"Sub-topology {}\"]", part.id, part.id);
        let mut stores_seen = 0;
        for node in &part.nodes {
            let _ = writeln!(out, "    {}[\"{}\"]", id(&node.name), node.name);
            match &node.role {
                NodeRole::Processor { stores } => {
                    for store in stores {
                        let _ = writeln!(out, "    d{}_{stores_seen}[(\"{store}\")]", part.id);
                        let _ = writeln!(edges, "  {} <-.-> d{}_{stores_seen}", id(&node.name), part.id);
                        stores_seen += 1;
                    }
                }
                NodeRole::Source { topics: read, .. } => {
                    for topic in read {
                        let _ = writeln!(edges, "  t{} --> {}", topic_id(topic, &mut topics), id(&node.name));
                    }
                }
                NodeRole::Sink { topic, .. } => {
                    let _ = writeln!(edges, "  {} --> t{}", id(&node.name), topic_id(topic, &mut topics));
                }
            }
            for successor in &node.successors {
                let _ = writeln!(edges, "  {} --> {}", id(&node.name), id(successor));
            }
        }
        out.push_str("  end\n");
    }
    for (at, topic) in topics.iter().enumerate() {
        let _ = writeln!(out, "  t{at}>\"{topic}\"]");
    }
    out.push_str(&edges);
    out
}
