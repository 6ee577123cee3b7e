// Asks Pawl which action to take, within a deadline and without ever failing. Nothing but fetch.
//
//   const pawl = new Pawl("http://127.0.0.1:7295", "router", "gpt-4o");
//   const decision = await pawl.decide({ task: "code", prompt_tokens: 350 });
//   const answer = await callModel(decision.action, ...);
//   pawl.feedback(decision, { cost_usd: 0.002, latency_s: 0.8 });

type Json = Record<string, unknown>;
export type Decision = { decision_id: string | null; action: string; asked?: Json; at?: number };

export class Pawl {
  private waiting: { path: string; body: string }[] = [];
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

  private post(path: string, body: string, ms: number): Promise<Response> {
    const signal = AbortSignal.timeout(ms);
    return fetch(this.server + path, { method: "POST", headers: this.headers, body, signal });
  }

  async decide(context: Json, actions?: string[]): Promise<Decision> {
    const asked = actions ? { context, actions } : { context };
    try {
      const reply = await this.post(`/v1/models/${this.model}/decide`, JSON.stringify(asked), this.deadlineMs);
      if (reply.ok) return (await reply.json()) as Decision;
    } catch {} // late or gone: the incumbent, reported when Pawl is back
    return { decision_id: null, action: this.incumbent, asked, at: Date.now() };
  }

  feedback(decision: Decision, metrics: Record<string, number>): void {
    const { decision_id, action, asked, at } = decision;
    const [path, key, item] = decision_id
      ? ["/v1/feedback", "events", { decision_id, metrics }]
      : [`/v1/models/${this.model}/decisions`, "decisions", { ...asked, action, at, metrics }];
    const body = JSON.stringify({ [key as string]: [item] }); // what cannot be sent is the caller's mistake, and thrown here
    if (this.waiting.length < 100_000) this.waiting.push({ path: path as string, body });
    if (!this.sending) void this.send();
  }

  private async send(): Promise<void> {
    this.sending = true;
    for (let wait = 200; this.waiting.length > 0; ) {
      const { path, body } = this.waiting[0]!;
      const status = await this.post(path, body, 10_000).then((r) => r.status, () => 0);
      // Later may help after these; anything else would be refused again.
      const later = status === 0 || status === 401 || status === 403 || status === 408 || status === 429 || status >= 500;
      if (!later) this.waiting.shift();
      else await new Promise((r) => setTimeout(r, (wait = Math.min(2 * wait, 5000))));
    }
    this.sending = false;
  }
}
