// Asks Pawl which action to take, within a deadline and without ever failing. Nothing but fetch.
//
//   const pawl = new Pawl("http://127.0.0.1:7295", "router", "gpt-4o");
//   const decision = await pawl.decide({ task: "code", prompt_tokens: 350 });
//   const answer = await callModel(decision.action, ...);
//   pawl.feedback(decision, { cost_usd: 0.002, latency_s: 0.8 });

type Json = Record<string, unknown>;
export type Decision = { decision_id: string | null; action: string; asked?: Json; at?: number };

export class Pawl {
  private waiting: { path: string; key: string; item: Json }[] = [];
  private sending = false;
  private server: string;
  private model: string;
  private incumbent: string;
  private deadlineMs: number;
  private headers: Record<string, string>;

  constructor(server: string, model: string, incumbent: string, key?: string, deadlineMs = 20) {
    this.server = server;
    this.model = model;
    this.incumbent = incumbent;
    this.deadlineMs = deadlineMs;
    this.headers = { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
  }

  private post(path: string, body: Json, ms: number): Promise<Response> {
    const signal = AbortSignal.timeout(ms);
    return fetch(this.server + path, { method: "POST", headers: this.headers, body: JSON.stringify(body), signal });
  }

  async decide(context: Json, actions?: string[]): Promise<Decision> {
    const asked = actions ? { context, actions } : { context };
    try {
      const reply = await this.post(`/v1/models/${this.model}/decide`, asked, this.deadlineMs);
      if (reply.ok) return (await reply.json()) as Decision;
    } catch {} // late or gone: the incumbent, reported when Pawl is back
    return { decision_id: null, action: this.incumbent, asked, at: Date.now() };
  }

  feedback(decision: Decision, metrics: Record<string, number>): void {
    const { decision_id, action, asked, at } = decision;
    if (this.waiting.length >= 100_000) return;
    if (decision_id) this.waiting.push({ path: "/v1/feedback", key: "events", item: { decision_id, metrics } });
    else this.waiting.push({ path: `/v1/models/${this.model}/decisions`, key: "decisions", item: { ...asked, action, at, metrics } });
    if (!this.sending) void this.send();
  }

  private async send(): Promise<void> {
    this.sending = true;
    for (let wait = 200; this.waiting.length > 0; ) {
      const { path, key, item } = this.waiting[0]!;
      const status = await this.post(path, { [key]: [item] }, 10_000).then((r) => r.status, () => 0);
      // Later may help after these; anything else would be refused again.
      const later = status === 0 || status === 408 || status === 429 || status >= 500;
      if (!later) this.waiting.shift();
      else await new Promise((r) => setTimeout(r, (wait = Math.min(2 * wait, 5000))));
    }
    this.sending = false;
  }
}
